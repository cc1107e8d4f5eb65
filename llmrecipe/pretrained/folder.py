"""A folder in the transformers format: `config.json`, safetensors files, a tokenizer."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from llmrecipe import origins
from llmrecipe.pretrained import safetensors
from llmrecipe.pretrained.contents import SHOWN, Contents, Damaged, Tensor, listed
from llmrecipe.pretrained.tokens import read_mapping, tokens_of

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_READ = (".json", ".safetensors", ".model", ".jinja", ".txt")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_OF_OTHERS = ("*.h5", "*.msgpack", "*.onnx")
_NO_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
"""Files of `_PICKLED` that trainers leave beside a model."""

T = TypeVar("T")


def contents_of(place: Path, *, is_whole: bool = True) -> Contents:
    """What is in a folder, with everything that is wrong with its files; unless it `is_whole`, some may be missing."""
    faults = list(origins.absent_in("", _READ, place))
    if faults:
        return Contents({}, {}, (), None, tuple(faults))

    def told(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except Damaged as error:
            faults.append(str(error))
            return None

    config = told(lambda: _config(place)) or {}
    tokenizer = told(lambda: tokens_of(place))
    headers: dict[str, dict[str, Tensor] | None] = {}
    if not is_whole and not _has_weights(place):
        return Contents(config, {}, (), tokenizer, tuple(faults))
    known = len(faults)
    if (place / WEIGHTS).is_file():
        headers[WEIGHTS] = told(lambda: safetensors.header(place / WEIGHTS))
    elif (place / INDEX).is_file():
        index = told(lambda: _index(place)) or {}
        headers = {file: told(partial(_shard, place, file)) for file in sorted(set(index.values()))}
        faults.extend(_disagreements(index, {file: found for file, found in headers.items() if found is not None}))
    else:
        faults.append(_no_weights(place))
    is_damaged = len(faults) > known
    tensors = (
        {} if is_damaged else {name: tensor for found in headers.values() for name, tensor in (found or {}).items()}
    )
    return Contents(config, tensors, tuple(headers), tokenizer, tuple(faults))


def _has_weights(place: Path) -> bool:
    """Whether all files of weights are there."""
    if (place / WEIGHTS).is_file() or not (place / INDEX).is_file():
        return (place / WEIGHTS).is_file()
    try:
        return all((place / file).is_file() for file in _index(place).values())
    except Damaged:
        return True


def _config(place: Path) -> dict:
    if not (place / CONFIG).is_file():
        found = sorted(path.name for path in place.glob("*.gguf"))
        hint = f"name the file, {found[0]}" if found else "save the model there with save_pretrained"
        raise Damaged(f"{CONFIG} is missing; {hint}")
    return read_mapping(place / CONFIG)


def _index(place: Path) -> dict[str, str]:
    """Which shard has which tensor."""
    found = read_mapping(place / INDEX).get("weight_map")
    is_map = isinstance(found, dict) and all(isinstance(file, str) for file in found.values())
    if not is_map or not found:
        raise Damaged(f"{INDEX} has no weight_map, which says which file has which tensor")
    odd = sorted({file for file in found.values() if "/" in file or not file.endswith(".safetensors")})
    if odd:
        raise Damaged(f"{INDEX} names {listed(odd)}, and weights are read from safetensors files beside it alone")
    return found


def _shard(place: Path, file: str) -> dict[str, Tensor]:
    if not (place / file).is_file():
        raise Damaged(f"{file} is missing, a shard that {INDEX} names; download it")
    return safetensors.header(place / file)


def _disagreements(index: dict[str, str], headers: dict[str, dict[str, Tensor]]) -> Iterator[str]:
    """What the index and the shards that can be read say differently."""
    for file, tensors in headers.items():
        missing = [name for name, place in index.items() if place == file and name not in tensors]
        if missing:
            yield f"{INDEX} puts {listed(missing)} in {file}, which lacks {_it(missing)}; download both again"
        unnamed = [name for name in tensors if name not in index]
        if unnamed:
            yield f"{file} holds {listed(unnamed)}, which {INDEX} doesn't name; they are of different models"
    holders = Counter(name for tensors in headers.values() for name in tensors)
    for name in [name for name, count in holders.items() if count > 1 and name in index][:SHOWN]:
        files = ", ".join(file for file, tensors in headers.items() if name in tensors)
        yield f"{name!r} is in several shards: {files}; keep it in {index[name]}, where {INDEX} puts it"


def _it(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _no_weights(place: Path) -> str:
    pickled, loose = _names(place, _PICKLED), _names(place, ("*.safetensors",))
    if (place / "adapter_config.json").is_file():
        return (
            "holds an adapter, and no whole model; merge it into its base with peft's merge_and_unload, and save that"
        )
    if loose:
        missing = f"the index, {INDEX}; download it" if len(loose) > 1 else f"{WEIGHTS}; a single file is called that"
        return f"holds {listed(loose)} without {missing}"
    if pickled:
        what = f"holds weights as {listed(pickled)}, which are pickled, and a pickle can run any code when it is read"
        return f"{what}; convert them, which runs none: {_conversion(place, pickled)}"
    others = _names(place, _OF_OTHERS)
    if others:
        return f"holds weights as {listed(others)}, of another library; download its {WEIGHTS}, or save one"
    return f"holds neither {WEIGHTS} nor {INDEX}; save the model there with save_pretrained"


def _conversion(place: Path, pickled: list[str]) -> str:
    """A command that writes what is pickled as safetensors, tensor by tensor as it is."""
    first = Path(pickled[0])
    pattern = first.name if len(pickled) == 1 else f"{first.stem.partition('-')[0]}*{first.suffix}"
    return (
        'python -c "import glob, torch, safetensors.torch; safetensors.torch.save_file({name: tensor.contiguous()'
        f".clone() for file in glob.glob('{place / pattern}') for name, tensor in torch.load(file, map_location='cpu', "
        f"weights_only=True).items()}}, '{place / WEIGHTS}', {{'format': 'pt'}})\""
    )


def _names(place: Path, patterns: tuple[str, ...]) -> list[str]:
    found = {path.name for pattern in patterns for path in place.glob(pattern)}
    return sorted(found - {path.name for pattern in _NO_WEIGHTS for path in place.glob(pattern)})
