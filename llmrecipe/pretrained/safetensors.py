"""Headers of safetensors files: 8 bytes of length, JSON, and then the numbers.

https://github.com/huggingface/safetensors#format
"""

import json
import math
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from llmrecipe.origins import LFS_POINTER
from llmrecipe.pretrained.contents import Damaged, Tensor

NOT_FETCHED = "is a pointer of Git LFS in place of the file; `git lfs pull` in its repository fetches it"

_LONGEST_HEADER = 100_000_000

_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of their bytes.

    Raises:
        Damaged: it is cut short, no safetensors file, or its header and its numbers disagree.
    """
    try:
        return _header(path)
    except OSError as error:
        raise Damaged(f"{path.name} can't be read: {error.strerror or error}") from error
    except Damaged as error:
        raise Damaged(f"{path.name} {error}") from None


def _header(path: Path) -> dict[str, Tensor]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        begin, described = _described(stream, size)
    tensors = [_tensor(name, entry, path.name) for name, entry in described.items() if name != "__metadata__"]
    end = 0
    for name, tensor in sorted(tensors, key=lambda item: (item[1].start, item[1].size)):
        if tensor.start != end:
            what = "overlaps with the tensor before it" if tensor.start < end else f"leaves a hole from byte {end}"
            raise Damaged(f"puts {name!r} at byte {tensor.start}, which {what}; download the file again")
        end += tensor.size
    if begin + end != size:
        missing = begin + end - size
        what = f"is cut short by {missing:,} bytes" if missing > 0 else f"has {-missing:,} bytes that no tensor owns"
        raise Damaged(f"{what}: its header describes {begin + end:,} and it has {size:,}; download it again")
    return {
        name: Tensor(tensor.dtype, tensor.shape, tensor.file, begin + tensor.start, tensor.size)
        for name, tensor in tensors
    }


def _described(stream: BinaryIO, size: int) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and the header."""
    first = stream.read(len(LFS_POINTER))
    if first == LFS_POINTER:
        raise Damaged(NOT_FETCHED)
    if size < 8:
        raise Damaged("is empty" if not size else f"has {size} bytes, too few for a safetensors file")
    length = int.from_bytes(first[:8], "little")
    if length > _LONGEST_HEADER:
        raise Damaged("is no safetensors file: its first 8 bytes are no length of a header")
    if 8 + length > size:
        raise Damaged(f"is cut short within its header, at {size:,} bytes; download it again")
    stream.seek(8)
    try:
        described = json.loads(stream.read(length).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Damaged("is no safetensors file: its header is not JSON") from error
    if not isinstance(described, dict):
        raise Damaged("is no safetensors file: its header is no mapping")
    return 8 + length, described


def _tensor(name: str, entry: Any, file: str) -> tuple[str, Tensor]:
    """A tensor with its offset among the numbers."""
    if not isinstance(entry, dict):
        raise Damaged(f"says of {name!r} nothing that can be read; download it again")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise Damaged(f"gives {name!r} the dtype {dtype!r}, which safetensors doesn't know")
    if not _are_lengths(shape) or not _are_lengths(offsets) or len(offsets) != 2:
        raise Damaged(f"gives {name!r} no shape or no offsets that can be read; download it again")
    begin, end = offsets
    bits = math.prod(shape) * _BITS[dtype]
    if bits != 8 * (end - begin):
        shown = "×".join(map(str, shape)) or "1"
        raise Damaged(f"gives {name!r}, {shown} numbers of {dtype}, {end - begin} bytes; download it again")
    return name, Tensor(dtype, tuple(shape), file, begin, end - begin)


def _are_lengths(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
