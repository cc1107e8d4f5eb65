"""From a source to clean documents, with some of them held out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datatrove.pipeline.filters import LambdaFilter

from llmrecipe import funnel
from llmrecipe.engines.datatrove import documents, dropped
from llmrecipe.engines.datatrove.cleaners.comparing import comparison_of
from llmrecipe.engines.datatrove.cleaners.steps import step_of
from llmrecipe.engines.datatrove.documents import has_text
from llmrecipe.engines.datatrove.heldout import EQUALS_HELDOUT, heldout_of
from llmrecipe.engines.datatrove.passes import Passes
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Cleaner, Source
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.sections import PrepareSection

_EMPTY = "empty"
"""The name under which documents without text in the source are dropped."""


def prepare(
    section: PrepareSection, directory: Path, machine: Machine, work: Path
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Read, clean, split and write a corpus.

    Args:
        section: the source, the cleaners and what is held out.
        directory: gets `train/*.jsonl.zst` and `heldout/*.jsonl.zst`, at most one file for each shard, and the card.
            The bytes don't depend on `machine`.
        machine: where, by how many workers, and the log level.
        work: scratch folder. Work left here or in `directory` by an interrupted run is resumed.

    Returns:
        Documents and UTF-8 bytes read and in each split. Documents that were dropped and that were changed, with the
        tokens (words and signs) and bytes that went with both: by `empty`, for those without text in the source, by
        the tag of a cleaner, or by `equals_heldout`. And, where that has several reasons, documents dropped because of
        each. And examples of the dropped documents, in rows of `by`, `because`, `id` and `text`.

    Raises:
        StageError: a source can't be read, nothing is left after cleaning, a split is empty, or what was written
            between two passes can't be read back.
    """
    # As in `SourceReader`: fsspec remembers what a relative path once meant.
    directory, work = directory.absolute(), work.absolute()
    labels, cleaners = _labels(section), dict(_labelled(section.clean))
    heldout = heldout_of(section, machine, work / "heldout")
    passes = Passes(
        reader_of(section.source),
        tasks=section.shards,
        machine=machine,
        work=work,
        keeps_heldout=heldout.is_apart,
    )
    is_split = False
    for label, where in labels.items():
        if label == _EMPTY:
            passes.clean(label, LambdaFilter(has_text))
        elif label in heldout.filters:
            passes.clean(label, heldout.filters[label])
        elif not cleaners[label].compares:
            passes.clean(label, step_of(cleaners[label]))
        else:
            if not is_split and (heldout.is_apart or cleaners[label].needs_split):
                passes.add("split", heldout.split())
                is_split = True
            comparison = comparison_of(
                cleaners[label], where, work / label, section.shards, keeps_heldout=heldout.is_apart
            )
            passes.compare(label, comparison)
            if comparison.sign is not None:
                _refuse_empty(_metrics(passes.totals, labels), labels)
        if label in cleaners and cleaners[label].changes_text:
            # Whatever changes a text can leave none of it.
            passes.clean(label, LambdaFilter(has_text))
    if not is_split:
        passes.add("split", heldout.split())
    passes.add("write", documents.DocumentWriter(directory))
    passes.run("splitting")

    metrics = _metrics(passes.totals, labels)
    metrics |= heldout.metrics
    _refuse_empty(metrics, labels)
    _refuse_empty_split(metrics, section.heldout)
    _refuse_lost(metrics)
    documents.write_card(directory, {split: metrics[split] for split in documents.SPLITS})
    return metrics, dropped.examples(passes.dropped)


def _labels(section: PrepareSection) -> dict[str, str]:
    """What documents can be dropped by, in order, each with its place in the recipe."""
    labels = {_EMPTY: "corpus.source"}
    labels |= {label: f"corpus.clean[{index}]" for index, (label, _) in enumerate(_labelled(section.clean))}
    if isinstance(section.heldout, Fraction):
        return labels
    # Once no text changes any more.
    changing = [index for index, cleaner in enumerate(section.clean, 1) if cleaner.changes_text]
    rows = list(labels.items())
    rows.insert(1 + max(changing, default=0), (EQUALS_HELDOUT, "corpus.heldout"))
    return dict(rows)


def _labelled(cleaners: Iterable[Cleaner]) -> Iterator[tuple[str, Cleaner]]:
    """Each cleaner by its tag, and from the second of a kind on by that with a number: `regex_filter_2`."""
    seen = Counter([_EMPTY, EQUALS_HELDOUT])
    for cleaner in cleaners:
        seen[cleaner.tag] += 1
        number = seen[cleaner.tag]
        yield cleaner.tag if number == 1 else f"{cleaner.tag}_{number}", cleaner


def _metrics(totals: Counter[tuple[str, str]], labels: Iterable[str]) -> dict[str, Any]:
    labels = list(labels)
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


def _refuse_empty(metrics: dict[str, Any], labels: Mapping[str, str]) -> None:
    before = metrics["read"]["documents"]
    for label, remaining, _ in funnel.left(metrics):
        if remaining == 0 and label == _EMPTY:
            raise StageError(f"{labels[label]}: the corpus is empty: none of its {before:,} documents holds text")
        if remaining == 0:
            raise StageError(
                f"{labels[label]}: the corpus is empty: {label} left none of {before:,} documents; loosen it, or leave "
                f"it out\n\n{funnel.text(metrics)}"
            )
        before = remaining


def _refuse_empty_split(metrics: dict[str, Any], heldout: Fraction | Source) -> None:
    train, held_out = metrics["train"]["documents"], metrics["heldout"]["documents"]
    total = train + held_out
    for split, count, change in (("heldout", held_out, "raise"), ("train", train, "lower")):
        if count == 0:
            raise StageError(
                f"corpus.heldout: the {split} split is empty: {total} of {total} documents fell into the other one at "
                f"{heldout}; {change} it, add documents, or loosen the cleaners\n\n{funnel.text(metrics)}"
            )


def _refuse_lost(metrics: dict[str, Any]) -> None:
    """Refuse documents that are neither dropped nor there: datatrove skips what it can't read back."""
    expected = [metrics["read"]["documents"], *(remaining for _, remaining, _ in funnel.left(metrics))][-1]
    if "heldout_read" in metrics:
        expected += metrics["heldout_read"]["documents"] - metrics["heldout_read"]["empty"]
    found = sum(metrics[split]["documents"] for split in documents.SPLITS)
    if found != expected:
        raise StageError(
            f"{found:,} documents are left where the cleaners left {expected:,}: what is written between two passes "
            "was damaged on the disk; delete the folder of this stage in .llmrecipe and run `dvc repro` again"
        )
