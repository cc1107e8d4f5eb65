"""The weights that files have, and those that a network has."""

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from llmrecipe.pretrained.contents import Tensor, listed
from llmrecipe.recipe.networks.weights import Weights

_FLOATS = ("F32", "F16", "BF16")

_OF_QUANTIZATION = re.compile(r"\.\w*(scale|zero_point|shape|g_idx)$")
"""What compressed-tensors stores beside a weight."""

_PIECES, _PIECE = 64, 4096
"""How much of two weights is compared here: so many pieces of so many bytes, evenly spread."""


@attrs.frozen
class Comparison:
    """What the weights of files are for a network."""

    lacks_head: bool = False
    """Whether the output head has weights of its own, and all of them are missing."""

    dropped: tuple[str, ...] = ()
    """Parts of the model that are there and that the network hasn't, in words."""

    faults: tuple[str, ...] = ()
    """What is wrong."""


def compare(
    tensors: dict[str, Tensor], expected: Weights, folder: Path, *, family: str, is_quantized: bool, is_expanded: bool
) -> Comparison:
    """Compare the weights that files in a folder have with those that a network has.

    Args:
        tensors: those of the files, by today's names or older ones.
        expected: the network's.
        folder: where the files are.
        family: the network's, with the file that says so: "Llama of this config.json".
        is_quantized: whether some are stored as compressed-tensors, whose shapes say little.
        is_expanded: whether number formats that networks don't compute with are expanded.
    """
    faults: list[str] = []
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if is_quantized and _OF_QUANTIZATION.search(name):
            continue
        own = expected.own_name(name.replace(".weight_packed", ".weight") if is_quantized else name)
        if own in found:
            faults.append(f"holds {own!r} twice, with the older name {name!r} as well; keep one")
        found[own] = tensor
    known = {**expected.body, **expected.head}
    known |= {name: known[own] for name, own in expected.tied.items()}
    has_head = any(name in found for name in expected.head)
    required = [*expected.body, *(expected.head if has_head else ())]
    faults += _missing([name for name in required if name not in found], family)
    faults += _unknown(found, known, expected, family)
    weights = {name: tensor for name, tensor in found.items() if name in known}
    if not is_quantized:
        faults += _of_other_shapes(weights, known, family)
        faults += _tied(found, expected, folder)
    if not is_expanded:
        faults += _of_other_formats(weights)
    dropped = dict.fromkeys(what for name in found if (what := expected.what_is_dropped(name)))
    return Comparison(bool(expected.head) and not has_head, tuple(dropped), tuple(faults))


def _missing(names: list[str], family: str) -> Iterator[str]:
    if names:
        yield f"lacks {listed(names)}, weights of the {family}; its files are not whole, or not of one model"


def _unknown(
    found: dict[str, Tensor], known: dict[str, tuple[int, ...]], expected: Weights, family: str
) -> Iterator[str]:
    names = [
        name
        for name in found
        if name not in known and not expected.is_constant(name) and not expected.what_is_dropped(name)
    ]
    if names:
        yield f"holds {listed(names)}, which the {family} doesn't have"


def _of_other_shapes(weights: dict[str, Tensor], known: dict[str, tuple[int, ...]], family: str) -> Iterator[str]:
    names = [name for name, tensor in weights.items() if tensor.shape != known[name]]
    if names:
        name = names[0]
        more = f", and {len(names) - 1} more differ" if len(names) > 1 else ""
        yield f"holds {name!r} of the shape {weights[name].shape}, and the {family} has {known[name]}{more}"


def _of_other_formats(weights: dict[str, Tensor]) -> Iterator[str]:
    names = [name for name, tensor in weights.items() if tensor.dtype not in _FLOATS]
    if names:
        formats = sorted({weights[name].dtype for name in names})
        yield f"holds {listed(names)} as {', '.join(formats)}; weights are read as {', '.join(_FLOATS)}"


def _tied(found: dict[str, Tensor], expected: Weights, folder: Path) -> Iterator[str]:
    """Weights that are there twice and differ; the import looks at all of their numbers."""
    for name, own in expected.tied.items():
        if name in found and own in found and not _are_alike(found[name], found[own], folder):
            yield (
                f"holds {name!r} and {own!r} with different values, and they are one weight by its tie_word_embeddings"
            )


def _are_alike(one: Tensor, other: Tensor, folder: Path) -> bool:
    """Whether two weights have the same bytes, as far as some pieces of them tell."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return True
    step = max(one.size // _PIECES, _PIECE)
    with (folder / one.file).open("rb") as first, (folder / other.file).open("rb") as second:
        for offset in range(0, one.size, step):
            first.seek(one.start + offset)
            second.seek(other.start + offset)
            length = min(_PIECE, one.size - offset)
            if first.read(length) != second.read(length):
                return False
    return True
