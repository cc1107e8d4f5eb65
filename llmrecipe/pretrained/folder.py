"""A folder in the transformers format: `config.json`, safetensors files, a tokenizer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrecipe.pretrained import safetensors
from llmrecipe.pretrained.contents import Contents, Damaged, Tensor, Tokens
from llmrecipe.pretrained.tokens import read_mapping, tokens_of

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def contents_of(place: Path) -> Contents:
    """What is in a folder, with everything that is wrong with its files."""
    faults: list[str] = []
    config: dict[str, Any] = {}
    if (place / CONFIG).is_file():
        config = _told(lambda: read_mapping(place / CONFIG), faults) or {}
    else:
        faults.append(f"{CONFIG} is missing; save the model there with save_pretrained")
    files, tensors = _weights(place, faults)
    tokenizer: Tokens | None = _told(lambda: tokens_of(place), faults)
    return Contents(config, tensors, files, tokenizer, tuple(faults))


def _told(read: Any, faults: list[str]) -> Any:
    try:
        return read()
    except Damaged as error:
        faults.append(str(error))
        return None


def _weights(place: Path, faults: list[str]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    if (place / WEIGHTS).is_file():
        return (WEIGHTS,), _header(place / WEIGHTS, faults)
    if (place / INDEX).is_file():
        return _shards(place, faults)
    faults.append(f"holds neither {WEIGHTS} nor {INDEX}")
    return (), {}


def _header(path: Path, faults: list[str]) -> dict[str, Tensor]:
    try:
        return safetensors.header(path)
    except Damaged as error:
        faults.append(f"{path.name} {error}")
        return {}


def _shards(place: Path, faults: list[str]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    raise NotImplementedError


def _disagreements(index: dict[str, str], found: dict[str, list[str]]) -> Iterator[str]:
    raise NotImplementedError
