"""From documents to the same documents and what is made of them."""

import heapq
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from llmrecipe import artifacts, identity
from llmrecipe.engines.augmentation import alterations, selection
from llmrecipe.engines.augmentation.similarity import chrf
from llmrecipe.engines.datatrove import documents
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.errors import StageError
from llmrecipe.progress import GenerationProgress
from llmrecipe.recipe.augment import (
    AlteringAugmenter,
    BackTranslate,
    JoinDocuments,
    Paraphrase,
    ShuffleSpans,
    TokenNoise,
    labels,
)
from llmrecipe.recipe.kinds import Augmenter
from llmrecipe.recipe.machine import Machine
from llmrecipe.sections import AugmentSection

SIZE = 20
"""Examples kept of each outcome, in the augmenter's own order."""

_CHARACTERS = 2000
"""Examples are cut to this many characters."""

REASONS = ("unfinished", "empty", "equal", "too_short", "too_long", "too_different", "too_similar")
"""Why a text is dropped, in the order in which they are looked for."""


def augment(
    section: AugmentSection, source: Path, directory: Path, *, name: str, machine: Machine, scratch: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, float]]:
    """Copy documents, and add to the training split what is made of it.

    Args:
        section: the augmenters. Each works on the documents in `source` alone.
        source: the documents.
        directory: gets every file of `source` as it is; for each file of the training split and each augmenter that
            has made something of it, a file of its own next to it; and the card.
        name: the stage's, for messages.
        machine: device, number of workers and log level.
        scratch: a folder that keeps what models have written.

    Returns:
        Documents and UTF-8 bytes of each split, and for each augmenter how many it tried, kept and dropped and why;
        examples of its texts, next to their sources; and the tokens that its models wrote a second.
    """
    # As in `SourceReader`: fsspec remembers what a relative path once meant.
    source, directory, scratch = source.absolute(), directory.absolute(), scratch.absolute()
    card, fresh = documents.read_card(source), scratch / "run"
    shutil.rmtree(fresh, ignore_errors=True)
    for split in documents.SPLITS:
        for file in card.files[split]:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, directory / file)
    counts = {
        split: {"documents": card.documents[split], "text_bytes": card.text_bytes[split]} for split in documents.SPLITS
    }
    results: dict[str, dict[str, Any]] = {}
    examples: list[dict[str, Any]] = []
    speeds: dict[str, float] = {}
    chosen = selection.choose(section.augment, source)
    for index, (label, augmenter, lines) in enumerate(
        zip(labels(section.augment), section.augment, chosen, strict=True)
    ):
        work = Work(
            augmenter=augmenter,
            label=label,
            source=source,
            directory=directory,
            tallies=fresh / "tallies" / label,
            lines=lines,
        )
        if isinstance(augmenter, BackTranslate | Paraphrase):
            where = f"{name}.augment[{index}]"
            speeds[label] = _rewrite(augmenter, work, where, section.revision, machine, scratch)
        else:
            steps = [(label, AlterFiles(work))]
            executor.run(label, steps, tasks=len(lines), machine=machine, work=fresh / "logs" / label)
        tally = _Tally()
        for counted in sorted(work.tallies.iterdir()):
            tally.merge(json.loads(counted.read_text(encoding="utf-8")))
        results[label] = {
            "tried": tally.tried,
            "kept": tally.kept,
            "dropped": tally.dropped,
            "text_bytes": tally.text_bytes,
            "share": tally.kept / card.documents["train"],
            "share_of_bytes": tally.text_bytes / card.text_bytes["train"],
        }
        examples += [example for _, example in tally.examples]
        counts["train"]["documents"] += tally.kept
        counts["train"]["text_bytes"] += tally.text_bytes
    shutil.rmtree(fresh)
    documents.write_card(directory, counts)
    return {"augmented": results} | counts, examples, speeds


class AlterFiles(PipelineStep):
    """Makes texts by a rule; a task does one file."""

    type = "AUGMENT"
    name = "by a rule"

    def __init__(self, work: "Work") -> None:
        super().__init__()
        self.work = work

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write the task's file of new documents."""
        file = sorted(self.work.lines)[rank]
        self.work.write(file, _altered(self.work.augmenter, self.work.taken(file)))
        yield from ()


def _altered(augmenter: Augmenter, taken: list[dict[str, str]]) -> Iterator[tuple[list[dict[str, str]], str]]:
    match augmenter:
        case JoinDocuments():
            for start in range(0, len(taken) - 1, augmenter.documents):
                group = taken[start : start + augmenter.documents]
                yield group, augmenter.separator.join(document["text"] for document in group)
        case ShuffleSpans():
            for document in taken:
                yield [document], alterations.shuffle(document["text"], augmenter, _dice(augmenter, document))
        case TokenNoise():
            for document in taken:
                yield [document], alterations.add_noise(document["text"], augmenter, _dice(augmenter, document))
        case _:
            raise StageError(
                f"nothing makes texts as {type(augmenter).__name__} says; use an augmenter of this package"
            )


def _dice(augmenter: Augmenter, document: dict[str, str]) -> random.Random:
    return random.Random(selection.digest("dice", selection.rank(augmenter, document["id"])))


def _rewrite(
    augmenter: BackTranslate | Paraphrase, work: "Work", where: str, revision: int, machine: Machine, scratch: Path
) -> float:
    """Let the models of an augmenter write its texts; the tokens written a second."""
    # Only here: the other augmenters need no torch.
    from llmrecipe.engines.augmentation import rewriting
    from llmrecipe.engines.device import set_up

    device = set_up(machine)
    artifacts.open_artifact(work.source, "documents")
    decides = rewriting.decides(augmenter, revision=revision, documents=work.source, device=device)
    folder = identity.work_folder(scratch, decides)
    rewriter = rewriting.Rewriter(augmenter, where, device)
    count = sum(map(len, work.lines.values()))
    progress = GenerationProgress(f"{where}: {work.label}", documents=count, interval=machine.log_interval)
    for file in sorted(work.lines):
        taken = work.taken(file)
        texts = rewriting.rewritten(rewriter, taken, folder / Path(file).name, progress)
        work.write(file, (([document], text) for document, text in zip(taken, texts, strict=True)))
    progress.close()
    return round(progress.tokens_per_second, 1)


@attrs.frozen(kw_only=True)
class Work:
    """One augmenter's work on a corpus."""

    augmenter: Any
    """An `Augmenter`: what is done depends on which."""

    label: str
    source: Path
    directory: Path
    tallies: Path
    """A folder for what is counted."""

    lines: dict[str, list[int]]
    """By file of the training split, the lines of the documents that it takes."""

    def taken(self, name: str) -> list[dict[str, str]]:
        """The documents that it takes of a file, in the augmenter's own order."""
        wanted = set(self.lines[name])
        found = [row for line, row in enumerate(documents.read(self.source / name)) if line in wanted]
        return sorted(found, key=lambda document: selection.rank(self.augmenter, document["id"]))

    def write(self, name: str, made: Iterable[tuple[list[dict[str, str]], str | None]]) -> None:
        """Write what is kept of texts that are made of a file's documents, and count the rest.

        Args:
            name: the file.
            made: each text, with the documents that it is made of; None for one that wasn't finished.
        """
        kept, tally = [], _Tally()
        for sources, text in made:
            verdict, measures = self._judge(sources, text)
            tally.add(self._example(verdict, sources, text, measures), selection.rank(self.augmenter, sources[0]["id"]))
            if verdict == "" and text is not None:
                tally.text_bytes += len(text.encode())
                origin = {"augmenter": self.label, "sources": [document["id"] for document in sources]} | measures
                kept.append({"id": f"{sources[0]['id']}#{self.label}", "text": text, "origin": origin})
        if kept:
            documents.write(self.directory / f"{name.removesuffix('.jsonl.zst')}.{self.label}.jsonl.zst", kept)
        self.tallies.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(self.tallies / f"{Path(name).name}.json", attrs.asdict(tally))

    def _judge(self, sources: list[dict[str, str]], text: str | None) -> tuple[str, dict[str, float]]:
        """Why the text is dropped, or nothing; and what was measured of it."""
        if text is None:
            return "unfinished", {}
        if not text.strip():
            return "empty", {}
        if not isinstance(self.augmenter, AlteringAugmenter):
            return "", {}
        source = sources[0]["text"]
        if text.strip() == source.strip():
            return "equal", {}
        ratio, length_ratio = len(text) / len(source), self.augmenter.length_ratio
        if not length_ratio.least <= ratio <= length_ratio.most:
            return "too_short" if ratio < length_ratio.least else "too_long", {"length_ratio": round(ratio, 3)}
        nearness, similarity = chrf(text, source), self.augmenter.similarity
        measures = {"length_ratio": round(ratio, 3), "similarity": round(nearness, 3)}
        if not similarity.least <= nearness <= similarity.most:
            return "too_different" if nearness < similarity.least else "too_similar", measures
        return "", measures

    def _example(
        self, verdict: str, sources: list[dict[str, str]], text: str | None, measures: dict[str, float]
    ) -> dict[str, Any]:
        return {
            "by": self.label,
            "because": verdict,
            "id": sources[0]["id"],
            "source": sources[0]["text"][:_CHARACTERS],
            "text": (text or "")[:_CHARACTERS],
        } | measures


@attrs.define
class _Tally:
    """What came of texts, in one file or in all."""

    tried: int = 0
    kept: int = 0
    text_bytes: int = 0
    dropped: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(REASONS, 0))
    examples: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)
    """With their places in the augmenter's order, as texts: no reader of JSON has to hold so large a number."""

    def add(self, example: dict[str, Any], rank: int) -> None:
        """Count a text."""
        self.tried += 1
        if example["because"]:
            self.dropped[example["because"]] += 1
        else:
            self.kept += 1
        self.examples = _first([*self.examples, (f"{rank:064x}", example)])

    def merge(self, other: dict[str, Any]) -> None:
        """Add what another one counted."""
        self.tried += other["tried"]
        self.kept += other["kept"]
        self.text_bytes += other["text_bytes"]
        self.dropped = {reason: count + other["dropped"][reason] for reason, count in self.dropped.items()}
        self.examples = _first([*self.examples, *map(tuple, other["examples"])])


def _first(examples: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """The first in the augmenter's order: some of those that were kept, and some of the others."""
    groups = ([e for e in examples if not e[1]["because"]], [e for e in examples if e[1]["because"]])
    return [example for group in groups for example in heapq.nsmallest(SIZE, group, key=lambda e: (e[0], e[1]["id"]))]
