"""What all our executors share: a task that is finished stays so, and is never done twice."""

import contextlib
import io
import json
import logging
import os
import signal
import sys
import time
from abc import abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path

from datatrove.executor.base import PipelineExecutor
from datatrove.utils.logging import logger as datatrove_logger
from datatrove.utils.logging import setup_default_logger
from datatrove.utils.stats import MetricStats, PipelineStats

from llmrecipe import artifacts
from llmrecipe.engines.quiet import hide_progress_bars
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)


class TaskExecutor(PipelineExecutor):
    """An executor of datatrove's whose finished tasks survive a kill and a loss of power."""

    what: str
    """The work in a few words, for the log."""

    verbose: bool
    """Whether datatrove's own log is shown."""

    @abstractmethod
    def finish(self) -> None:
        """Run every task that isn't finished.

        Raises:
            StageError: a task failed or was lost.
        """

    def mark_rank_as_completed(self, rank: int) -> None:
        """Mark a task as finished, once all that it has written is on the disk."""
        artifacts.sync_file_system(Path(self.logging_dir.path))
        super().mark_rank_as_completed(rank)

    def unfinished(self) -> list[int]:
        """The tasks that are left; says what is done of the others."""
        ranks = self.get_incomplete_ranks()
        self._documents: dict[int, int] = {}
        self._started = time.monotonic()
        if len(ranks) < self.world_size:
            log.info("%s: %s, finished by an earlier run", self.what, self._done(ranks))
        return ranks

    def report(self) -> None:
        """Say how much is finished."""
        seconds = time.monotonic() - self._started
        log.info("%s: %s, %.1f s", self.what, self._done(self.get_incomplete_ranks()), seconds)

    def _done(self, left: Collection[int]) -> str:
        """What is finished when these tasks are left, in documents if that is what they read."""
        finished = set(range(self.world_size)) - set(left)
        self._documents |= {rank: self._documents_of(rank) for rank in finished - self._documents.keys()}
        share = f"{100 * len(finished) // self.world_size} %"
        documents = sum(self._documents.values())
        return f"{documents:,} documents, {share}" if documents else share

    def _documents_of(self, rank: int) -> int:
        counted = json.loads(self.logging_dir.read_text(f"stats/{rank:05d}.json"))[0]["stats"]
        return int(MetricStats.from_dict(counted["documents"]).total) if "documents" in counted else 0


class RemoteExecutor(TaskExecutor):
    """An executor whose tasks run in processes that this one learns of by files alone, in a folder that all share."""

    remedy: str
    """What to do about a task that ended without a reason."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        """Run a task where it was sent to, and leave a note if it fails."""
        if self._failures():
            raise StageError(f"task {rank} was not begun: another one has failed")
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        hide_progress_bars()
        try:
            # Not Ray's own: it logs into a folder of /tmp that belongs to the first user of the machine.
            return PipelineExecutor._run_for_rank(self, rank, local_rank, node_rank)
        except Exception as error:
            known = isinstance(error, StageError)
            note = str(error) if known else f"{self.what}: task {rank} failed with {type(error).__name__}: {error}"
            if not known:
                note += f"; its log is {self.logging_dir.resolve_paths(f'logs/task_{rank:05d}.log')}"
            with self.logging_dir.open(f"failures/{rank:05d}", "w") as file:
                file.write(note)
            raise

    def forget_failures(self) -> None:
        """Delete what an earlier run noted."""
        for name in self._failures():
            self.logging_dir.rm(name)

    def refuse_failures(self) -> None:
        """Raise what a task has failed with.

        Raises:
            StageError: one has.
        """
        for name in self._failures():
            note = self.logging_dir.read_text(name)
            # The file is there before its text.
            if note:
                raise StageError(note)

    def lost(self, rank: int, place: str) -> StageError:
        """The error about a task that ended unfinished and left no note; `place` is where to look."""
        return StageError(
            f"{self.what}: task {rank} ended before its work did: it was cancelled, or ran out of time or memory; "
            f"{place}. {self.remedy}, and run `dvc repro` again: it resumes with the tasks that are left"
        )

    def _failures(self) -> list[str]:
        return sorted(self.logging_dir.list_files("failures"))


@contextlib.contextmanager
def quiet(verbose: bool) -> Iterator[None]:
    """Nothing from datatrove: it reports every file at level INFO, every error twice, and draws progress bars."""
    if verbose:
        datatrove_logger.enable("datatrove")
        yield
        return
    datatrove_logger.disable("datatrove")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        setup_default_logger()


@contextlib.contextmanager
def cleaning_up_on_termination() -> Iterator[None]:
    """Let SIGTERM unwind the block as Ctrl-C does, so what runs elsewhere is told to end."""
    previous = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
