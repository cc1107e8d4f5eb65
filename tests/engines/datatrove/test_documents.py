"""Documents on disk."""

import random

import orjson
import pytest
from backports.zstd import ZstdError
from datatrove.data import Document

from llmrecipe.engines.datatrove import companions, documents


def written_by_a_task(folder):
    writer = documents.DocumentWriter(folder)
    with writer:
        for row in ROWS:
            document = Document(text=row["text"], id=row["id"])
            companions.SPLIT.put(document, "train")
            writer.write(document, rank=0)
    return folder / "train/00000.jsonl.zst"


def written_at_once(folder):
    documents.write(folder / "0.jsonl.zst", ROWS)
    return folder / "0.jsonl.zst"


draw = random.Random(0)
ROWS = [{"id": str(number), "text": draw.randbytes(40).hex()} for number in range(20)]


@pytest.mark.parametrize("written", [written_by_a_task, written_at_once])
def test_what_was_written_is_read_and_another_bit_in_any_byte_is_noticed(tmp_path, written):
    path = written(tmp_path)
    assert list(documents.read(path)) == ROWS
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found = list(documents.read(path))
        except (ZstdError, EOFError, MemoryError, orjson.JSONDecodeError):
            continue
        # Some bits of a header mean nothing.
        assert found == ROWS
