"""From clean documents to token files."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import attrs
import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer, TokenizedFile
from tokenizers import Tokenizer, decoders

from llmrecipe import cards
from llmrecipe.cards import DocumentsCard, MaskingCard, SplitCard, TokensCard
from llmrecipe.engines.datatrove import documents
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.engines.datatrove.folders import LocalFolder
from llmrecipe.engines.tokenizing.long_texts import ENCODED_AT_ONCE, cut
from llmrecipe.engines.tokens.files import DTYPES
from llmrecipe.engines.tokens.writing import TOKENS_SUFFIX, document_row, dtype_of, listing_of
from llmrecipe.errors import StageError
from llmrecipe.lost import LostText, lost
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.machine import Machine

_CHUNK = 1 << 20
"""Tokens counted at once."""

_COMPARED_SHARE, _COMPARED_FIRST = 1 / 16, 1 << 16
"""How much of a file of training documents is compared with what its tokens decode to, besides its first characters.
Decoding takes a fifth of the time of encoding."""


@attrs.frozen(kw_only=True)
class Vocabulary:
    """What token files need to know of a tokenizer."""

    file: Path
    """Its `tokenizer.json`."""

    size: int
    """Tokens, special ones included."""

    end_of_text: str
    """The token that ends each document."""

    end_of_text_id: int
    """The id of that token."""

    special_tokens: dict[str, int]
    """Names and ids of its further special tokens."""

    masking: MaskingCard | None = None
    """What masking needs to know; None without a mask token."""

    digest: str
    """Digest of the tokenizer's manifest."""

    @property
    def dtype(self) -> np.dtype:
        """The type of its tokens in files."""
        return DTYPES[dtype_of(self.size)]


class FileTokenizer(DocumentTokenizer):
    """Writes the documents of a task to its `.ds` file, in their order, and their ends to its `.index`.

    Held-out documents are listed in another file, too. Tokens are decoded and compared with the text, for all held-out
    documents and some of the others.
    """

    def __init__(self, directory: Path, vocabulary: Vocabulary, files: Sequence[str]) -> None:
        """`files` are those of the tasks, relative to `directory`."""
        super().__init__(LocalFolder(directory), str(vocabulary.file), eos_token=vocabulary.end_of_text)
        self.files = files
        self.dtype = vocabulary.dtype

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, set to encode every text as a whole and as text."""
        tokenizer = super().tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A text may quote a special token; only the end of a document may become one.
        tokenizer.encode_special_tokens = True
        if isinstance(tokenizer.decoder, decoders.WordPiece):
            # It would write "don't" for "do not".
            tokenizer.decoder = decoders.WordPiece(prefix=tokenizer.decoder.prefix, cleanup=False)
        return tokenizer

    @cached_property
    def unknown(self) -> int | None:
        """The token that stands for what the tokenizer doesn't know."""
        model = self.tokenizer.model
        name = getattr(model, "unk_token", None)
        return getattr(model, "unk_id", None) if name is None else self.tokenizer.token_to_id(name)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write the documents' tokens, one document at a time and a long one in parts; nothing is handed on.

        datatrove's own method encodes ten thousand at once, whatever their length, and then shuffles them; a run
        permutes its sequences over all files.
        """
        token_size, name = self.dtype.itemsize, self.files[rank]
        is_heldout = name.startswith("heldout/")
        characters, compared, missing = 0, 0, Counter[str]()
        file = TokenizedFile(self.output_folder, name, token_size=token_size)
        end_of_text = np.array(self.tokenizer.encode("").ids, self.dtype).tobytes()
        with self._listing(name) as listed:
            for document in data:
                with self.track_time():
                    parts = [self._encode(part) for part in cut(document.text, ENCODED_AT_ONCE)]
                    content = b"".join(np.array(ids, self.dtype).tobytes() for ids in parts) + end_of_text
                    file.write_bytes(content)
                    tokens = len(content) // token_size
                    self.stat_update("tokens", value=tokens)
                    if listed is not None:
                        listed.write(document_row(document.id, tokens, len(document.text.encode())))
                    if is_heldout or compared <= _COMPARED_FIRST + _COMPARED_SHARE * characters:
                        missing += lost(document.text, "".join(map(self._decode, parts)))
                        compared += len(document.text)
                    characters += len(document.text)
        file.close()
        split, _, _ = name.partition("/")
        self.stat_update(f"{split}_compared", value=compared)
        for character, count in missing.items():
            self.stat_update(f"{_lost_prefix(split)}{ord(character)}", value=count)
        yield from ()

    def _listing(self, name: str) -> AbstractContextManager[TextIO | None]:
        """The file that lists the documents of a file of held-out tokens; None for one of training tokens."""
        if not name.startswith("heldout/"):
            return nullcontext()
        return self.output_folder.open(listing_of(name), "w", encoding="utf-8")

    def _encode(self, text: str) -> list[int]:
        # The fast one leaves out where in the text each token is, a sixth of the time.
        (encoded,) = self.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        ids: list[int] = encoded.ids
        return ids

    def _decode(self, ids: list[int]) -> str:
        known = [index for index in ids if index != self.unknown]
        return str(self.tokenizer.decode(known, skip_special_tokens=False))


def _lost_prefix(split: str) -> str:
    """What the number of a character follows in the name under which a task counts how often it is lost."""
    return f"{split}_lost_"


class ListedReader(JsonlReader):
    """Reads one file for each task."""

    def __init__(self, directory: Path, files: Sequence[str]) -> None:
        super().__init__(LocalFolder(directory))
        self.files = files

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The documents of this task's file."""
        yield from self.read_files_shard([self.files[rank]])


def tokenize(source: Path, vocabulary: Vocabulary, directory: Path, machine: Machine, work: Path) -> dict[str, Any]:
    """Encode every split of a documents artifact.

    Args:
        source: the documents.
        vocabulary: the tokenizer.
        directory: gets, for each split, a `.ds` file of little-endian token ids for each file of documents, its
            `.index` of document ends (in tokens, `uint64`); for each of held-out documents, a list of them; and the
            card. The bytes don't depend on `machine`.
        machine: where, by how many workers, and the log level.
        work: scratch folder. Work left here or in `directory` by an interrupted run is resumed.

    Returns:
        By split, tokens, documents, what is `lost` of the text (the fields of `LostText`) and, if that is little, UTF-8
        bytes per token.

    Raises:
        StageError: the files of documents don't hold what they did when they were written, or a text encodes to the
            end-of-text token.
    """
    # As in `SourceReader`: fsspec remembers what a relative path once meant.
    source, directory, work = source.absolute(), directory.absolute(), work.absolute()
    card = documents.read_card(source)
    files = [name for split in documents.SPLITS for name in card.files[split]]
    written = [f"{name.removesuffix('.jsonl.zst')}{TOKENS_SUFFIX}" for name in files]
    steps = [("read", ListedReader(source, files)), ("encode", FileTokenizer(directory, vocabulary, written))]
    totals = executor.run("tokenizing", steps, tasks=len(files), machine=machine, work=work)
    quoted: set[int] = set()
    splits = {
        split: evolve(_split_card(directory, split, card, vocabulary, quoted), lost=_lost(totals, split))
        for split in documents.SPLITS
    }
    cards.write(
        directory,
        TokensCard(
            dtype=dtype_of(vocabulary.size),
            vocab_size=vocabulary.size,
            end_of_text_id=vocabulary.end_of_text_id,
            tokenizer=vocabulary.digest,
            splits=splits,
            special_tokens={name: index for name, index in vocabulary.special_tokens.items() if index not in quoted},
            masking=vocabulary.masking,
        ),
    )
    return {
        split: {
            "tokens": counts.tokens,
            "documents": counts.documents,
            "lost": attrs.asdict(counts.lost),
        }
        | ({"bytes_per_token": counts.text_bytes / counts.tokens} if counts.lost.is_small else {})
        for split, counts in splits.items()
    }


def _lost(totals: Counter[tuple[str, str]], split: str) -> LostText:
    prefix = _lost_prefix(split)
    missing = {
        chr(int(name.removeprefix(prefix))): count for (_, name), count in totals.items() if name.startswith(prefix)
    }
    return LostText.of(Counter(missing), totals["encode", f"{split}_compared"])


def _split_card(
    directory: Path, split: str, source: DocumentsCard, vocabulary: Vocabulary, quoted: set[int]
) -> SplitCard:
    """The card of a split; `quoted` gets the special tokens that texts of it became."""
    paths = sorted((directory / split).glob(f"*{TOKENS_SUFFIX}"))
    tokens = found = ends = 0
    for path in paths:
        with open(path, "rb") as shard:
            while len(part := np.fromfile(shard, vocabulary.dtype, _CHUNK)):
                tokens += len(part)
                ends += int(np.count_nonzero(part == vocabulary.end_of_text_id))
                if vocabulary.special_tokens:
                    special = np.isin(part, list(vocabulary.special_tokens.values()))
                    quoted.update(part[special].tolist())
        found += path.with_name(f"{path.name}.index").stat().st_size // np.dtype("<u8").itemsize
    # datatrove only warns of a line that it can't read.
    if found != source.documents[split]:
        raise StageError(
            f"the {split} split has {found} readable documents, {source.documents[split]} were written; "
            "delete the documents and run `dvc repro`"
        )
    if ends != found:
        raise StageError(
            f"{ends - found} times a text of the {split} split encodes to {vocabulary.end_of_text!r}, which ends "
            "documents; give the tokenizer an end-of-text token that occurs in no text, such as '<|endoftext|>'"
        )
    files = tuple(path.relative_to(directory).as_posix() for path in paths)
    return SplitCard(
        files=files,
        tokens=tokens,
        documents=found,
        text_bytes=source.text_bytes[split],
        document_files=tuple(map(listing_of, files)) if split == "heldout" else (),
    )
