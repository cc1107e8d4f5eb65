"""From clean documents to token files."""

from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer, TokenizedFile
from tokenizers import Tokenizer

from llmrecipe import artifacts
from llmrecipe.engines.datatrove import documents, executor
from llmrecipe.engines.long_texts import ENCODED_AT_ONCE, cut
from llmrecipe.errors import StageError
from llmrecipe.recipe.runtime import Runtime

_CHUNK = 1 << 20
"""Tokens counted at once."""


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
    """Its id."""

    masking: dict[str, Any] | None = None
    """What masking needs to know: `mask_token_id`, `special_ids` and `continuing_ids`; None without a mask token."""

    @property
    def dtype(self) -> np.dtype:
        """The narrower of `uint16` and `uint32` that holds every id."""
        return np.dtype("<u2" if self.size <= 1 << 16 else "<u4")


class SplitTokenizer(DocumentTokenizer):
    """Writes a task's documents to a `.ds` file, in their order, and their ends to its `.index`."""

    def __init__(self, directory: Path, vocabulary: Vocabulary) -> None:
        super().__init__(
            str(directory),
            str(vocabulary.file),
            eos_token=vocabulary.end_of_text,
            # Holds the tokenizer's path, so it would differ from folder to folder.
            save_final_metadata=False,
            # A training permutes its sequences over all files.
            shuffle_documents=False,
        )
        self.dtype = vocabulary.dtype
        self.token_size = vocabulary.dtype.itemsize

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, set to encode every text as a whole and as text."""
        tokenizer = super().tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # A text may quote a special token; only the end of a document may become one.
        tokenizer.encode_special_tokens = True
        return tokenizer

    def write_unshuffled(self, data: DocumentsPipeline, filename: str) -> TokenizedFile:
        """Write the documents' tokens, one document at a time and a long one in parts.

        datatrove's encodes a hundred at once, whatever their length; with one thread a worker, that is no faster.
        """
        file = TokenizedFile(
            self.output_folder,
            filename,
            save_index=True,
            tokenizer_name_or_path=self.tokenizer_name_or_path,
            save_final_metadata=False,
            token_size=self.token_size,
        )
        end_of_text = np.array(self.tokenizer.encode("").ids, self.dtype).tobytes()
        for document in data:
            with self.track_time():
                parts = cut(document.text, ENCODED_AT_ONCE)
                encoded = (self.tokenizer.encode(part, add_special_tokens=False).ids for part in parts)
                content = b"".join(np.array(ids, self.dtype).tobytes() for ids in encoded) + end_of_text
                file.write_bytes(content)
                self.stat_update("tokens", value=len(content) // self.token_size)
        file.close()
        return file


def tokenize(source: Path, vocabulary: Vocabulary, directory: Path, runtime: Runtime, work: Path) -> dict[str, Any]:
    """Encode every split of a documents artifact.

    Args:
        source: the documents.
        vocabulary: the tokenizer.
        directory: gets, for each split, a `.ds` file of little-endian token ids for each file of documents, its
            `.index` of document ends (in tokens, `uint64`), and `tokens.json`. The bytes don't depend on `runtime`.
        runtime: where, by how many workers, and the log level.
        work: a folder for datatrove's logs; what an interrupted run left in it and in `directory` is gone on with.

    Returns:
        Tokens, documents and UTF-8 bytes per token by split.

    Raises:
        StageError: the files of documents don't hold what they did when they were written, or a text encodes to the
            end-of-text token.
    """
    # As in `SourceReader`: fsspec takes a relative path for what it once was.
    source, directory, work = source.absolute(), directory.absolute(), work.absolute()
    described, splits = documents.description(source), {}
    for split in documents.SPLITS:
        listed = described[split]
        steps = [
            ("read", JsonlReader(str(source / split))),
            ("encode", SplitTokenizer(directory / split, vocabulary)),
        ]
        executor.run(f"tokenizing {split}", steps, tasks=len(listed["files"]), runtime=runtime, work=work / split)
        splits[split] = _describe(directory, split, listed, vocabulary)
    description = {
        "dtype": vocabulary.dtype.name,
        "vocab_size": vocabulary.size,
        "end_of_text_id": vocabulary.end_of_text_id,
        "splits": splits,
    }
    if vocabulary.masking is not None:
        description["masking"] = vocabulary.masking
    artifacts.write_json(directory / "tokens.json", description)
    return {
        split: {
            "tokens": counts["tokens"],
            "documents": counts["documents"],
            "bytes_per_token": counts["text_bytes"] / counts["tokens"],
        }
        for split, counts in splits.items()
    }


def _describe(directory: Path, split: str, listed: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    paths = sorted((directory / split).glob("*.ds"))
    tokens = found = ends = 0
    for path in paths:
        with open(path, "rb") as shard:
            while len(part := np.fromfile(shard, vocabulary.dtype, _CHUNK)):
                tokens += len(part)
                ends += int(np.count_nonzero(part == vocabulary.end_of_text_id))
        found += path.with_name(f"{path.name}.index").stat().st_size // np.dtype("<u8").itemsize
    # datatrove only warns of a line that it can't read.
    if found != listed["documents"]:
        raise StageError(
            f"the {split} split has {found} readable documents, {listed['documents']} were written; "
            "delete the documents and run `dvc repro`"
        )
    if ends != found:
        raise StageError(
            f"{ends - found} times a text of the {split} split encodes to {vocabulary.end_of_text!r}, which ends "
            "documents; give the tokenizer an end-of-text token that occurs in no text, such as '<|endoftext|>'"
        )
    return {
        "files": [path.relative_to(directory).as_posix() for path in paths],
        "tokens": tokens,
        "documents": found,
        "text_bytes": listed["text_bytes"],
    }
