"""From a source to clean documents, split by a hash of their text."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import LambdaFilter

from llmrecipe import funnel
from llmrecipe.engines.datatrove import documents, dropped
from llmrecipe.engines.datatrove.cleaners.comparing import comparison_of
from llmrecipe.engines.datatrove.cleaners.steps import step_of
from llmrecipe.engines.datatrove.passes import Passes
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.engines.datatrove.split import SplitByHash
from llmrecipe.errors import StageError
from llmrecipe.recipe.cleaning import CHANGING, Cleaner
from llmrecipe.recipe.deduplication import SPLITTING, Comparing, SentenceDedup
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.sections import PrepareSection


def prepare(
    section: PrepareSection, directory: Path, runtime: Runtime, work: Path
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Read, clean, split and write a corpus.

    Args:
        section: the source, the cleaners and the split.
        directory: gets `train/*.jsonl.zst` and `heldout/*.jsonl.zst`, at most one file for each shard, and
            `documents.json`. The bytes don't depend on `runtime`.
        runtime: where, by how many workers, and the log level.
        work: a folder for what is needed in between; what an interrupted run left in it and in `directory` is gone on
            with.

    Returns:
        Documents and UTF-8 bytes read and in each split. Documents that were dropped and that were changed, with the
        tokens (words and signs) and bytes that went with both: by `empty`, for those without text in the source, or by
        the tag of a cleaner. And, where that has several reasons, documents dropped because of each.
        And examples of the dropped documents, in rows of `by`, `because`, `id` and `text`.

    Raises:
        StageError: a source can't be read, nothing is left after cleaning or a split is empty.
    """
    # As in `SourceReader`: fsspec takes a relative path for what it once was.
    directory, work = directory.absolute(), work.absolute()
    cleaners = dict(_labelled(section.clean))
    passes = Passes(reader_of(section.source), tasks=section.shards, runtime=runtime, work=work)
    passes.clean("empty", LambdaFilter(has_text))
    is_split = False
    for index, (label, cleaner) in enumerate(cleaners.items()):
        if isinstance(cleaner, SPLITTING) and not is_split:
            passes.add("split", SplitByHash(section.heldout_fraction))
            is_split = True
        if isinstance(cleaner, Comparing):
            comparison = comparison_of(cleaner, f"corpus.clean[{index}]", work / label, section.shards)
            passes.compare(label, comparison)
            if comparison.sign is not None:
                _refuse_empty(_metrics(passes.totals, cleaners))
        else:
            passes.clean(label, step_of(cleaner))
        if isinstance(cleaner, CHANGING | SentenceDedup):
            # Whatever changes a text can leave none of it.
            passes.clean(label, LambdaFilter(has_text))
    if not is_split:
        passes.add("split", SplitByHash(section.heldout_fraction))
    passes.add("write", documents.DocumentWriter(directory))
    passes.run("splitting")

    metrics = _metrics(passes.totals, cleaners)
    _refuse_empty(metrics)
    _refuse_empty_split(metrics, section.heldout_fraction)
    documents.describe(directory, {split: metrics[split] for split in documents.SPLITS})
    return metrics, dropped.examples(passes.dropped)


def has_text(document: Document) -> bool:
    """Whether a document holds more than white space."""
    return bool(document.text.strip())


def _labelled(cleaners: Iterable[Cleaner]) -> Iterator[tuple[str, Cleaner]]:
    """Each cleaner by its tag, and from the second of a kind on by that with a number: `regex_filter_2`."""
    seen: Counter[str] = Counter()
    for cleaner in cleaners:
        seen[cleaner.tag] += 1
        number = seen[cleaner.tag]
        yield cleaner.tag if number == 1 else f"{cleaner.tag}_{number}", cleaner


def _metrics(totals: Counter[tuple[str, str]], cleaners: Iterable[str]) -> dict[str, Any]:
    labels = ["empty", *cleaners]
    metrics: dict[str, Any] = {
        "read": {"documents": totals["read", "documents"], "text_bytes": totals["read", "bytes"]},
        # Files have the keys of the others sorted.
        "cleaners": labels,
    }
    for name, statistic in (
        ("dropped", "gone_documents"),
        ("changed", "changed_documents"),
        ("dropped_tokens", "gone_tokens"),
        ("dropped_text_bytes", "gone_bytes"),
    ):
        metrics[name] = {label: totals[label, statistic] for label in labels}
    metrics["dropped_because"] = {label: because for label in labels if (because := _reasons(totals, label))}
    for split in documents.SPLITS:
        counts = {"documents": totals["write", f"{split}_documents"], "text_bytes": totals["write", f"{split}_bytes"]}
        metrics[split] = counts
    return metrics


def _reasons(totals: Counter[tuple[str, str]], label: str) -> dict[str, int]:
    """datatrove's reasons, in the order of their names, with the documents dropped for each."""
    return {
        name.removeprefix("dropped_"): count
        for (counted, name), count in sorted(totals.items())
        if counted == label and name.startswith("dropped_")
    }


def _refuse_empty(metrics: dict[str, Any]) -> None:
    before = metrics["read"]["documents"]
    for index, (cleaner, remaining, _) in enumerate(funnel.left(metrics)):
        if remaining == 0 and index == 0:
            raise StageError(f"corpus.source: the corpus is empty: none of its {before:,} documents holds text")
        if remaining == 0:
            raise StageError(
                f"corpus.clean[{index - 1}]: the corpus is empty: {cleaner} left none of {before:,} documents; loosen "
                f"it, or leave it out\n\n{funnel.text(metrics)}"
            )
        before = remaining


def _refuse_empty_split(metrics: dict[str, Any], heldout_fraction: float) -> None:
    train, heldout = metrics["train"]["documents"], metrics["heldout"]["documents"]
    total = train + heldout
    for split, count, change in (("heldout", heldout, "raise"), ("train", train, "lower")):
        if count == 0:
            raise StageError(
                f"corpus.heldout_fraction: the {split} split is empty: {total} of {total} documents fell into the "
                f"other one at {heldout_fraction}; {change} it, add documents, or loosen the cleaners\n\n"
                f"{funnel.text(metrics)}"
            )
