"""From a source to clean documents, split by a hash of their text."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

from llmrecipe.engines.datatrove import documents, dropped, executor
from llmrecipe.engines.datatrove.sources import reader_of
from llmrecipe.engines.datatrove.steps import step_of
from llmrecipe.errors import StageError
from llmrecipe.recipe.cleaning import ExactDedup
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.sections import PrepareSection

_MAX_PRIORITY = 65535
"""datatrove's largest; of equal texts the one with the highest priority stays."""


class SplitByHash(PipelineStep):
    """Puts each document into a split, by its text alone."""

    type = "SPLIT"
    name = "by hash of the text"

    def __init__(self, heldout_fraction: float) -> None:
        super().__init__()
        self.heldout_fraction = heldout_fraction

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The documents, with their split in their metadata."""
        for document in data:
            split = split_of(document.text, self.heldout_fraction)
            document.metadata["split"] = split
            self.stat_update(f"{split}_documents")
            self.stat_update(f"{split}_bytes", value=len(document.text.encode()))
            yield document


class TaskReader(JsonlReader):
    """Reads back the file that the same task wrote, so that documents keep their number within the task."""

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """This task's documents."""
        name = f"{rank:05d}.jsonl"
        yield from self.read_files_shard([name] if self.data_folder.exists(name) else [])


def prepare(
    section: PrepareSection, directory: Path, runtime: Runtime, work: Path
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Read, clean, split and write a corpus.

    Args:
        section: the source, the cleaners and the split.
        directory: gets `train/*.jsonl.zst` and `heldout/*.jsonl.zst`, at most one file for each shard, and
            `documents.json`. The bytes don't depend on `runtime`.
        runtime: number of workers and log level.
        work: an empty folder for what is needed in between.

    Returns:
        Documents and UTF-8 bytes read and in each split, and documents dropped: by `empty`, for those without text in
        the source, or by the tag of a cleaner, with their bytes, and where that has several reasons, because of each.
        And examples of the dropped documents, in rows of `by`, `because`, `id` and `text`.

    Raises:
        StageError: a source can't be read, nothing is left after cleaning or a split is empty.
    """
    # As in `SourceReader`: fsspec takes a relative path for what it once was.
    directory, work = directory.absolute(), work.absolute()
    totals: Counter[tuple[str, str]] = Counter()
    seen: list[Path] = []

    def recorded(label: str, step: PipelineStep) -> tuple[str, PipelineStep]:
        seen.append(work / "dropped" / str(len(seen)))
        return label, dropped.record(step, label, seen[-1])

    steps = [("read", reader_of(section.source)), recorded("empty", LambdaFilter(has_text))]
    for number, cleaner in enumerate(section.clean):
        match cleaner:
            case ExactDedup():
                folder = work / f"clean{number}"
                totals += _find_duplicates(steps, section.shards, folder, runtime)
                steps = [
                    ("cleaned", _reader(folder)),
                    recorded(cleaner.tag, ExactDedupFilter(str(folder / "duplicates"), _DEDUP)),
                ]
            case _:
                # Whatever changes a text can leave none of it.
                steps += [recorded(cleaner.tag, step) for step in (step_of(cleaner), LambdaFilter(has_text))]
    steps += [("split", SplitByHash(section.heldout_fraction)), ("write", documents.DocumentWriter(directory))]
    totals += executor.run("splitting", steps, tasks=section.shards, runtime=runtime, work=work / "split")

    counts = {
        split: {"documents": totals["split", f"{split}_documents"], "text_bytes": totals["split", f"{split}_bytes"]}
        for split in documents.SPLITS
    }
    found = dropped.collect(work / "dropped")
    labels = ("empty", *(cleaner.tag for cleaner in section.clean))
    metrics = {
        "read": {"documents": totals["read", "documents"], "text_bytes": totals["read", "bytes"]},
        "dropped": {label: found[label].documents if label in found else 0 for label in labels},
        "dropped_text_bytes": {label: found[label].text_bytes if label in found else 0 for label in labels},
        "dropped_because": {reason: because for reason in labels if (because := _reasons(totals, reason))},
    } | counts
    _refuse_empty(metrics, section.heldout_fraction)
    documents.describe(directory, counts)
    return metrics, dropped.rows(found)


def has_text(document: Document) -> bool:
    """Whether a document holds more than white space."""
    return bool(document.text.strip())


def split_of(text: str, heldout_fraction: float) -> str:
    """`heldout` for about this share of all texts, else `train`; equal texts never part."""
    digest = hashlib.sha256(text.encode()).digest()
    return "heldout" if int.from_bytes(digest[:8], "big") < heldout_fraction * 2**64 else "train"


def _reasons(totals: Counter[tuple[str, str]], label: str) -> dict[str, int]:
    """datatrove's reasons, in the order of their names, with the documents dropped for each."""
    return {
        name.removeprefix("dropped_"): count
        for (counted, name), count in sorted(totals.items())
        if counted == label and name.startswith("dropped_")
    }


def _find_duplicates(
    steps: list[tuple[str, PipelineStep]], shards: int, folder: Path, runtime: Runtime
) -> Counter[tuple[str, str]]:
    """Run these steps, keep their documents in `folder` and note there which are duplicates of an earlier one."""
    signatures = str(folder / "signatures")
    totals = executor.run(
        "reading",
        [
            *steps,
            ("cleaned", JsonlWriter(str(folder / "documents"), compression=None)),
            ("signature", ExactDedupSignature(signatures, _DEDUP)),
        ],
        tasks=shards,
        runtime=runtime,
        work=folder / "sign",
    )
    find = ExactFindDedups(signatures, str(folder / "duplicates"), _DEDUP)
    executor.run("finding duplicates", [("find", find)], tasks=1, runtime=runtime, work=folder / "find")
    return totals


def _reader(folder: Path) -> TaskReader:
    return TaskReader(str(folder / "documents"), compression=None, add_file_path=False)


def _content(document: Document) -> bytes:
    return document.text.encode()


def _priority(document: Document) -> int:
    # Within a shard datatrove keeps the first already.
    return max(1, _MAX_PRIORITY - document.metadata["shard"])


_DEDUP = ExactDedupConfig(content_getter=_content, document_priority=_priority)


def _refuse_empty(metrics: dict[str, Any], heldout_fraction: float) -> None:
    train, heldout = metrics["train"]["documents"], metrics["heldout"]["documents"]
    total = train + heldout
    if total == 0:
        dropped = ", ".join(f"{count} by {reason}" for reason, count in metrics["dropped"].items())
        raise StageError(
            f"corpus.source: the corpus is empty: {metrics['read']['documents']} documents read, dropped {dropped}; "
            "check that the source holds text"
        )
    for split, count, change in (("heldout", heldout, "raise"), ("train", train, "lower")):
        if count == 0:
            raise StageError(
                f"corpus.heldout_fraction: the {split} split is empty: {total} of {total} documents fell into the "
                f"other one at {heldout_fraction}; {change} it, or add documents"
            )
