"""Steps over all the documents of a corpus, in as many passes as they need."""

from collections import Counter
from pathlib import Path

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

from llmrecipe.engines.datatrove.cleaners.comparing import Comparison
from llmrecipe.engines.datatrove.dropped import Watched
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.recipe.machine import Machine


class Passes:
    """Gathers steps, and runs them where documents have to be compared: before that none can be dropped.

    A pass writes the documents that it leaves to its folder, and the next reads them back in the same tasks. A task of
    a pass depends on nothing but such files, and writes its own again when it runs again.
    """

    def __init__(self, source: PipelineStep, *, tasks: int, machine: Machine, work: Path, keeps_heldout: bool) -> None:
        """
        Args:
            source: reads the documents.
            tasks: parts that the work is cut into.
            machine: where, and how many of them run at the same time.
            work: scratch folder; what an interrupted run left there is resumed.
            keeps_heldout: whether held-out documents, which then come first, go past every cleaner.
        """
        self.totals: Counter[tuple[str, str]] = Counter()
        """What the steps of all passes counted so far, by label and statistic."""

        self.dropped = work / "dropped"
        """Where `dropped.examples` are found."""

        self._tasks, self._machine, self._work, self._keeps_heldout = tasks, machine, work, keeps_heldout
        self._steps: list[tuple[str, PipelineStep]] = [("read", source)]
        self._passes = self._watched = 0

    def add(self, label: str, step: PipelineStep) -> None:
        """Put a step behind the others."""
        self._steps.append((label, step))

    def clean(self, cleaner: str, step: PipelineStep) -> None:
        """Put a step of a cleaner behind the others, and count what it takes away."""
        self._watch(cleaner, step, passes_heldout=self._keeps_heldout)

    def compare(self, cleaner: str, comparison: Comparison) -> None:
        """Run what was gathered, if the documents have to be signed; then what finds by it those to drop."""
        if comparison.sign is not None:
            documents = LocalFolder(self._work / f"pass{self._passes}" / "documents")
            self.add("cleaned", JsonlWriter(documents, compression=None))
            self.add("sign", comparison.sign)
            self.run("cleaning" if self._passes else "reading")
            self._steps = [("cleaned", TaskReader(documents, compression=None, add_file_path=False))]
        for number, find in enumerate(comparison.find):
            work = self._work / f"find{self._watched}" / str(number)
            steps = [("find", step) for step in find.steps]
            executor.run(find.what, steps, tasks=find.tasks, machine=self._machine, work=work)
        # It knows documents by their number, and so has to see them all.
        self._watch(cleaner, comparison.drop, passes_heldout=False)

    def run(self, what: str) -> None:
        """Run what was gathered."""
        work = self._work / f"pass{self._passes}"
        # Not `+=`, which leaves out what is negative.
        self.totals.update(executor.run(what, self._steps, tasks=self._tasks, machine=self._machine, work=work))
        self._passes += 1

    def _watch(self, cleaner: str, step: PipelineStep, *, passes_heldout: bool) -> None:
        folder = self.dropped / str(self._watched)
        self.add(cleaner, Watched(step, cleaner, folder, passes_heldout=passes_heldout))
        self._watched += 1


class TaskReader(JsonlReader):
    """Reads back the file that the same task wrote, so documents keep their number within the task."""

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """This task's documents."""
        name = f"{rank:05d}.jsonl"
        yield from self.read_files_shard([name] if self.data_folder.exists(name) else [])
