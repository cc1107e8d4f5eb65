"""Whole weights in and out of nanotron's checkpoint folders, one file a tensor and shard, for any layout."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.stored import on_disk
from llmrecipe.engines.models.table import Split
from llmrecipe.recipe.networks.network import Network

# nanotron 0.4's `CHECKPOINT_VERSION`
_FORMAT = "1.2"


def write_unsharded(weights: Mapping[str, torch.Tensor], network: Network, directory: Path) -> None:
    """Write `weights` as the only shard of a nanotron checkpoint; nanotron cuts it for its layout when it loads."""
    table = {weight.name: weight for weight in architecture_of(network).weights(network)}
    for name, tensor in weights.items():
        *folders, leaf = name.split(".")
        folder = directory.joinpath("model", *folders)
        folder.mkdir(parents=True, exist_ok=True)
        # What only training needs is whole on every rank.
        split = table[name].split(tensor) if name in table else None
        if split is None:
            save_file({"data": tensor.contiguous()}, folder / f"model_{leaf}.safetensors")
            continue
        file = folder / f"model_{leaf}_pp-rank-0-of-1_tp-rank-0-of-1.safetensors"
        save_file({"data": tensor.contiguous()}, file, metadata=_whole_shard(tensor.shape, split))


def read_whole(directory: Path, scratch: Path | None = None) -> dict[str, torch.Tensor]:
    """Every weight of a nanotron checkpoint, its shards joined, under nanotron's names.

    They are kept in files in `scratch`, or in memory.
    """
    root = directory / "model"
    names = {
        ".".join((*file.relative_to(root).parts[:-1], re.sub(r"^model_|(_pp-rank-.*)?\.safetensors$", "", file.name)))
        for file in root.rglob("model_*.safetensors")
    }
    joined = ((name, _join(_shard_files(directory, name), {})) for name in sorted(names))
    return {name: tensor if scratch is None else on_disk(tensor, scratch) for name, tensor in joined}


def join_like(directory: Path, name: str, shards: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Tensors that are sharded as the weight `name` of a nanotron checkpoint is, joined.

    Args:
        directory: the checkpoint.
        name: the weight.
        shards: by tensor-parallel rank, each with as many elements as that rank's shard of the weight.
    """
    return _join(_shard_files(directory, name), shards)


def save(weights: Mapping[str, torch.Tensor], directory: Path) -> None:
    """Write whole weights as safetensors, in files of at most 5 GB: the same weights give the same bytes."""
    contiguous = {name: weights[name].contiguous() for name in sorted(weights)}
    save_torch_state_dict(contiguous, directory, max_shard_size="5GB")


def load(directory: Path) -> dict[str, torch.Tensor]:
    """Read what `save` wrote."""
    loaded: dict[str, torch.Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        loaded |= load_file(file)
    return loaded


def _shard_files(directory: Path, name: str) -> dict[int, Path]:
    """The files of a weight by tensor-parallel rank; one that is not sharded has one file."""
    *folders, leaf = name.split(".")
    folder = directory.joinpath("model", *folders)
    whole = folder / f"model_{leaf}.safetensors"
    if whole.exists():
        return {0: whole}
    files = sorted(folder.glob(f"model_{leaf}_pp-rank-*.safetensors"))
    return {int(file.name.partition("_tp-rank-")[2].partition("-of-")[0]): file for file in files}


def _join(files: Mapping[int, Path], contents: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The whole tensor of the shards in `files`, or of `contents` in their place."""
    whole: torch.Tensor | None = None
    for rank, path in files.items():
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            shape = file.get_slice("data").get_shape()
            tensor = contents[rank].view(shape) if contents else file.get_tensor("data")
        if not metadata:
            return tensor
        if whole is None:
            whole = tensor.new_empty([int(size) for size in re.findall(r"\d+", metadata["unsharded_shape"])])
        for pair in metadata["local_global_slices_pairs"].split(";"):
            local, joined = pair.split("#")
            whole[_slices(joined)] = tensor[_slices(local)]
    if whole is None:
        raise ValueError("a weight of which the checkpoint has no file")
    return whole


def _whole_shard(shape: torch.Size, split: Split) -> dict[str, str]:
    start, pairs = 0, []
    for size in split.blocks:
        ranges = ["None,None,None"] * len(shape)
        ranges[split.dim] = f"{start},{start + size},None"
        text = "|".join(ranges)
        pairs.append(f"{text}#{text}")
        start += size
    return {
        "version": _FORMAT,
        "local_global_slices_pairs": ";".join(pairs),
        "unsharded_shape": str(tuple(shape)),
    }


def _slices(text: str) -> tuple[slice, ...]:
    return tuple(
        slice(*(None if bound == "None" else int(bound) for bound in part.split(","))) for part in text.split("|")
    )
