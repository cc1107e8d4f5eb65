"""Headers of GGUF files: keys with values, and where which tensor is.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import attrs

from llmrecipe.origins import LFS_POINTER
from llmrecipe.pretrained.contents import Damaged, Tensor
from llmrecipe.pretrained.safetensors import NOT_FETCHED

_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Types of values, as `struct` calls them."""

_TEXT, _ARRAY = 8, 9

_BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}
"""Number formats that can be expanded: names, numbers in a block, its bytes."""

_MOST_DIMENSIONS = 4
_ALIGNMENT = "general.alignment"


@attrs.frozen
class Array:
    """A value that is an array, of which only the length is read."""

    length: int


@attrs.frozen
class Header:
    """What a GGUF file says before its numbers."""

    values: dict[str, Any]
    """By key: numbers, truth values, texts and arrays."""

    tensors: dict[str, Tensor]
    """By the file's own names."""


def header(path: Path) -> Header:
    """The header of a file.

    Raises:
        Damaged: it is cut short, no GGUF file, or can't be read.
    """
    try:
        with path.open("rb") as stream, _mapped(stream.fileno()) as data:
            return _header(_Reader(data), path.name)
    except OSError as error:
        raise Damaged(f"{path.name} can't be read: {error.strerror or error}") from error
    except Damaged as error:
        raise Damaged(f"{path.name} {error}") from None


def _mapped(descriptor: int) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError as error:
        raise Damaged("is empty") from error


@attrs.define
class _Reader:
    """A place in the file."""

    data: mmap.mmap
    at: int = 0

    def skip(self, size: int) -> int:
        """Go on by some bytes; where they begin."""
        begin, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise Damaged(f"is cut short within its header, at {len(self.data):,} bytes; download it again")
        return begin

    def number(self, form: str) -> Any:
        """A number, or a truth value."""
        return struct.unpack_from(f"<{form}", self.data, self.skip(struct.calcsize(form)))[0]

    def text(self) -> str:
        """A text with its length before it."""
        begin = self.skip(self.number("Q"))
        return self.data[begin : self.at].decode("utf-8", errors="replace")

    def array(self) -> Array:
        """An array, whose items are passed over."""
        kind, length = self.number("I"), self.number("Q")
        if kind == _TEXT:
            for _ in range(length):
                self.skip(self.number("Q"))
        elif kind in _FORMATS:
            self.skip(length * struct.calcsize(_FORMATS[kind]))
        else:
            raise Damaged(f"has an array of the type {kind}, which isn't known")
        return Array(length)

    def value(self) -> Any:
        """A value, after its type."""
        kind = self.number("I")
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        if kind not in _FORMATS:
            raise Damaged(f"has a value of the type {kind}, which isn't known")
        return self.number(_FORMATS[kind])


def _header(reader: _Reader, file: str) -> Header:
    if reader.data[: len(LFS_POINTER)] == LFS_POINTER:
        raise Damaged(NOT_FETCHED)
    if reader.data[:4] != b"GGUF":
        raise Damaged("is no GGUF file: it doesn't begin with 'GGUF'")
    reader.skip(4)
    version = reader.number("I")
    if version not in (2, 3):
        kind = "is a big-endian GGUF file" if not version & 0xFFFF else f"is a GGUF file of the version {version}"
        raise Damaged(f"{kind}; 2 and 3 can be read, little-endian: convert the model again with llama.cpp")
    num_tensors, num_values = reader.number("Q"), reader.number("Q")
    values: dict[str, Any] = {}
    for _ in range(num_values):
        key = reader.text()
        values[key] = reader.value()
    tensors = [_tensor(reader, file) for _ in range(num_tensors)]
    alignment = values.get(_ALIGNMENT, 32)
    if type(alignment) is not int or alignment < 1:
        raise Damaged(f"has {_ALIGNMENT} = {alignment!r}, which is no alignment")
    begin = -(-reader.at // alignment) * alignment
    return Header(values, {name: _placed(name, tensor, begin, reader) for name, tensor in tensors})


def _tensor(reader: _Reader, file: str) -> tuple[str, Tensor]:
    """A tensor with its offset among the numbers."""
    name, num_dimensions = reader.text(), reader.number("I")
    if num_dimensions > _MOST_DIMENSIONS:
        raise Damaged(f"gives {name!r} {num_dimensions} dimensions; a tensor has at most {_MOST_DIMENSIONS}")
    # The fastest-changing dimension is first.
    shape = tuple(reversed([reader.number("Q") for _ in range(num_dimensions)]))
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in _BLOCKS:
        raise Damaged(f"has {name!r} in a number format, {kind}, that can't be expanded; use another of its files")
    dtype, block, size = _BLOCKS[kind]
    if shape and shape[-1] % block:
        raise Damaged(f"has {name!r} in blocks of {block} numbers, which don't divide its rows of {shape[-1]}")
    return name, Tensor(dtype, shape, file, offset, math.prod(shape) // block * size)


def _placed(name: str, tensor: Tensor, begin: int, reader: _Reader) -> Tensor:
    end = begin + tensor.start + tensor.size
    if end > len(reader.data):
        raise Damaged(f"is cut short: {name!r} ends at byte {end:,} and it has {len(reader.data):,}; download it again")
    return attrs.evolve(tensor, start=begin + tensor.start)
