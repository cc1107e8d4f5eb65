"""The cleaners that compare documents, as steps of datatrove's.

Each signs every document, finds by all the signatures which documents have to go, and drops those. Documents are known
by their task and their number within it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import attrs
import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.dedup.sentence_dedup import (
    SentDedupConfig,
    SentenceDedupFilter,
    SentenceDedupSignature,
    SentenceFindDedups,
)

from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.cleaners import contamination, words
from llmrecipe.engines.datatrove.cleaners.signatures import AllSigned, CompactSignature, FileForEach
from llmrecipe.engines.datatrove.companions import is_heldout
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.errors import StageError
from llmrecipe.recipe.deduplication import Decontaminate, ExactDedup, MinHashDedup, SentenceDedup
from llmrecipe.recipe.kinds import Cleaner

_AT_ONCE = 1000
"""Signatures read at once from each task's file; datatrove's 5 cost more than what is done with them."""


@attrs.frozen
class Find:
    """A pipeline that works on all the signatures."""

    what: str
    """The work in a few words, for the log."""

    steps: tuple[PipelineStep, ...]
    tasks: int


@attrs.frozen
class Comparison:
    """What a cleaner does to compare documents."""

    sign: PipelineStep | None
    """Takes the documents, or None if they needn't be looked at before they are dropped."""

    find: tuple[Find, ...]
    """What is done next, in order."""

    drop: PipelineStep
    """Takes the same documents again, in the same tasks and the same order, and lets those through that stay."""


def comparison_of(cleaner: Cleaner, where: str, folder: Path, shards: int, *, keeps_heldout: bool) -> Comparison:
    """The steps of a cleaner that compares documents.

    Args:
        cleaner: says what is compared.
        where: its place in the recipe, for messages.
        folder: where the steps keep what they know.
        shards: tasks in which the documents come.
        keeps_heldout: whether all held-out documents stay, as they are; else they are compared with each other, too.
    """
    signatures, found = LocalFolder(folder / "signatures"), LocalFolder(folder / "found")
    present = AllSigned(signatures, "{:04d}", shards)
    match cleaner:
        case ExactDedup():
            find = ExactFindDedups(signatures, found, _EXACT, lines_to_buffer=_AT_ONCE)
            return Comparison(
                _for_finders(CompactSignature(signatures, _EXACT, skips_heldout=keeps_heldout), shards),
                (Find("finding duplicates", (present, find), shards),),
                ExactDedupFilter(found, _EXACT),
            )
        case MinHashDedup():
            minhash = MinhashConfig(cleaner.ngram, cleaner.bands, cleaner.hashes_per_band, hash_config=words.HASH)
            pairs = LocalFolder(folder / "pairs")
            find = MinhashDedupBuckets(signatures, pairs, config=minhash, lines_to_buffer=_AT_ONCE)
            return Comparison(
                MinHashSignature(folder, minhash),
                (
                    Find("comparing bands", (AllSigned(signatures, "bucket_{:03d}", shards), find), cleaner.bands),
                    Find("clustering", (MinHashCluster(folder, keeps_heldout=keeps_heldout),), 1),
                ),
                MinhashDedupFilter(found),
            )
        case SentenceDedup():
            tokenizer = words.PiecewiseTokenizer()
            sentence = SentDedupConfig(
                n_sentences=cleaner.sentences,
                min_doc_words=cleaner.min_words,
                min_num_sentences=cleaner.min_sentences,
                hash_config=words.HASH,
            )
            find = SentenceFindDedups(signatures, found, config=sentence, lines_to_buffer=_AT_ONCE)
            return Comparison(
                _for_finders(SentenceSignature(signatures, config=sentence, language=tokenizer), shards),
                (Find("finding sentences", (present, find), shards),),
                SentenceFilter(found, sentence, tokenizer, keeps_heldout=keeps_heldout),
            )
        case Decontaminate():
            reads = [
                Find("reading evaluation sets", steps, 1) for steps in contamination.readers(cleaner, where, folder)
            ]
            sign = None
            if cleaner.heldout:
                sign = contamination.HeldoutNgrams(folder, cleaner.ngram)
                reads.append(Find("collecting n-grams", (contamination.merge_heldout(folder),), 1))
            return Comparison(sign, tuple(reads), contamination.ContaminationFilter(folder, cleaner.ngram))
    raise StageError(f"{where}: nothing compares documents as {type(cleaner).__name__} says; use a CustomCleaner")


def _for_finders(
    sign: ExactDedupSignature | SentenceDedupSignature, tasks: int
) -> ExactDedupSignature | SentenceDedupSignature:
    """Let it spread its signatures over this number of tasks."""
    # Its constructor would warn of more than one.
    sign.finder_workers = tasks
    return sign


# Exact


def _content(document: Document) -> bytes:
    return document.text.encode()


def _priority(document: Document) -> int:
    """Of equal texts the one with the highest stays, from 1 to 65,535; within a task the first."""
    first = max(1, (1 << 15) - 1 - (companions.SHARD.of(document) or 0))
    return first | 1 << 15 if is_heldout(document) else first


_EXACT = ExactDedupConfig(content_getter=_content, document_priority=_priority)


# Near


class MinHashSignature(MinhashDedupSignature):
    """datatrove's step, which also notes which documents are held out, and takes texts of any length."""

    _AT_ONCE = 10_000

    def __init__(self, folder: Path, config: MinhashConfig) -> None:
        super().__init__(LocalFolder(folder / "signatures"), config)
        self.heldout = folder / "heldout"

    def get_shingles(self, text: str) -> np.ndarray:
        """The hashes of a text's n-grams, one a row."""
        return words.ngram_hashes(text, self.config.n_grams).reshape(-1, 1)

    def get_signature(self, shingles: np.ndarray) -> list[list[int]]:
        """The smallest value of each hash function, by band."""
        parts = range(0, len(shingles), self._AT_ONCE)
        each = [super(MinHashSignature, self).get_signature(shingles[at : at + self._AT_ONCE]) for at in parts]
        return each[0] if len(each) == 1 else np.min(np.array(each, np.uint64), axis=0).tolist()

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> None:
        """Write this task's signatures, and the numbers of its held-out documents."""
        heldout: list[int] = []

        def noted() -> Iterator[Document]:
            for number, document in enumerate(data):
                if is_heldout(document):
                    heldout.append(number)
                yield document

        super().run(noted(), rank, world_size)
        self.heldout.mkdir(parents=True, exist_ok=True)
        np.save(self.heldout / f"{rank}.npy", np.array(heldout, np.uint32))


class MinHashCluster(PipelineStep):
    """Joins pairs to clusters, and lists for `MinhashDedupFilter` all but the best document of each.

    In place of datatrove's step, which keeps any document of a cluster, not one that is held out.
    """

    type = "DEDUP"
    name = "clusters of near duplicates"

    _TASK, _TRAIN = 32, 64
    """Bits of a document's place: its number, its task, and whether it is for training. The smallest place is best."""

    def __init__(self, folder: Path, *, keeps_heldout: bool) -> None:
        super().__init__()
        self.folder, self.keeps_heldout = folder, keeps_heldout

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        """Write a list for each task that has documents to drop."""
        heldout = {int(file.stem): set(np.load(file).tolist()) for file in (self.folder / "heldout").glob("*.npy")}
        better: dict[int, int] = {}

        def best(place: int) -> int:
            while place in better:
                above = better[place]
                # Shortens the way for the next that comes along.
                better[place] = better.get(above, above)
                place = above
            return place

        for file in sorted((self.folder / "pairs").glob("*.dups")):
            for pair in np.fromfile(file, "<u4").reshape(-1, 2, 2).tolist():
                first, second = sorted(
                    best((number not in heldout[task]) << self._TRAIN | task << self._TASK | number)
                    for task, number in pair
                )
                if first != second:
                    better[second] = first

        found: dict[int, list[int]] = {}
        for place in better:
            if self.keeps_heldout and not place >> self._TRAIN:
                continue
            found.setdefault(place >> self._TASK & 0xFFFFFFFF, []).append(place & 0xFFFFFFFF)
        (self.folder / "found").mkdir(parents=True, exist_ok=True)
        for task, numbers in found.items():
            np.array(sorted(numbers), "<u4").tofile(self.folder / "found" / f"{task:06d}.remove")


# Sentences

_TRAIN = 1 << 31
"""Added to the number of a training document: datatrove keeps a span of the document with the smallest number."""

_LAST_SPAN = (1 << 16) - 1
"""datatrove's files hold no larger number of a span."""


class SentenceSignature(FileForEach, SentenceDedupSignature):
    """datatrove's step, with held-out documents before all others."""

    def get_hashes(self, doc: Document, doc_idx: int) -> list[tuple[int, int, int]]:
        """Hash, document and number of every span."""
        hashes = super().get_hashes(doc, doc_idx if is_heldout(doc) else doc_idx | _TRAIN)
        return [signature for signature in hashes if signature[2] <= _LAST_SPAN]


class SentenceFilter(SentenceDedupFilter):
    """datatrove's step, which takes the numbers back and shows what it cuts."""

    def __init__(
        self, folder: LocalFolder, config: SentDedupConfig, tokenizer: words.PiecewiseTokenizer, *, keeps_heldout: bool
    ) -> None:
        super().__init__(folder, config=config, language=tokenizer)
        self.keeps_heldout = keeps_heldout

    def read_duplicates(self, file: BinaryIO) -> np.ndarray:
        """Document and number of the spans to cut."""
        found = super().read_duplicates(file)
        found["doc"] &= ~np.uint32(_TRAIN)
        return found

    def remove_dup_sentences(self, doc: Document, du_lines: np.ndarray) -> tuple[str, str]:
        """The text without these spans, and the whole text with marks around them."""
        if self.keeps_heldout and is_heldout(doc):
            return doc.text, doc.text
        text, marked = super().remove_dup_sentences(doc, du_lines)
        companions.REASON.put(doc, "duplicate_sentences")
        companions.EXAMPLE.put(doc, marked[marked.index(">>>") :])
        return text, marked
