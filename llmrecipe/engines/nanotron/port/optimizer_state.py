"""Optimizer state of a checkpoint, cut for any layout.

nanotron 0.4 loads it by position: under another tensor or pipeline degree the norms silently lose their state, and
under another ZeRO sharding a file is not found. Here it is joined by the names of the weights, and every rank takes
its part of the whole.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.optim.zero import ZeroDistributedOptimizer

from llmrecipe.engines.nanotron import weights

_MASTER = "master weight"
"""Key for the float32 copy of a weight that is trained in another type; nanotron keeps it apart."""

State = dict[str, torch.Tensor]


@torch.no_grad()
def load_optimizer(optimizer: Any, parallel_context: Any, root_folder: Path, model: Any, **_: Any) -> None:
    """nanotron's `load_optimizer` for a checkpoint of any layout in `root_folder`."""
    network = getattr(model, "module", model)
    parameters = dict(network.get_named_params_with_correct_tied())
    wholes = _read(root_folder, set(parameters))
    zero = isinstance(optimizer, ZeroDistributedOptimizer)
    data_rank = dist.get_rank(parallel_context.dp_pg)

    def part(name: str, whole: torch.Tensor) -> torch.Tensor:
        """This rank's part of a tensor that is as large as the weight `name`."""
        parameter, local = parameters[name], whole
        if parameter.is_sharded:
            local = whole.new_empty(parameter.shape)
            for pair in parameter.get_sharded_info().local_global_slices_pairs:
                local[pair.local_slices] = whole[pair.global_slices]
        if zero:
            local = local.reshape(-1)[slice(*optimizer.param_name_to_dp_rank_offsets[name][data_rank])]
        return local.to(parameter.device, copy=True)

    base = optimizer.get_base_optimizer()
    masters: State = {}
    for group in base.param_groups:
        for parameter in group["params"]:
            name = optimizer.id_to_name[id(parameter)]
            # Plain gradient descent has no state to save, for any weight.
            state = wholes[name] if wholes else {}
            base.state[parameter] = {
                key: part(name, value) if value.dim() else value.to(parameter.device, copy=True)
                for key, value in state.items()
                if key != _MASTER
            }
            if _MASTER in state:
                masters[name] = part(name, state[_MASTER])
    if masters:
        _restore_masters(optimizer, masters)


def _read(checkpoint: Path, names: set[str]) -> dict[str, State]:
    """The whole state of these weights, from however many files it was saved in."""
    pieces: dict[str, dict[str, dict[int, dict[int, torch.Tensor]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(dict))
    )
    for name, key, tensor_rank, data_rank, piece in _saved(checkpoint):
        if name in names:
            pieces[name][key][tensor_rank][data_rank] = piece
    return {
        name: {key: _join(checkpoint, name, by_rank) for key, by_rank in state.items()}
        for name, state in pieces.items()
    }


def _join(checkpoint: Path, name: str, by_rank: dict[int, dict[int, torch.Tensor]]) -> torch.Tensor:
    first = next(iter(by_rank[0].values()))
    if first.dim() == 0:
        return first
    shards = {
        tensor_rank: torch.cat([piece.reshape(-1) for _, piece in sorted(by_data_rank.items())])
        for tensor_rank, by_data_rank in by_rank.items()
    }
    return weights.join_like(checkpoint, name, shards)


def _saved(checkpoint: Path) -> Iterator[tuple[str, str, int, int, torch.Tensor]]:
    """Name of the weight, key of the state, tensor and data rank, and the piece that they keep."""
    for file in sorted((checkpoint / "optimizer").glob("optimizer_*.pt")):
        ranks = {axis: int(rank) for axis, rank in re.findall(r"(pp|dp|tp)-(\d+)-of", file.name)}
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for index, name in saved["names"].items():
            for key, piece in saved["state"][index].items():
                yield name, key, ranks["tp"], ranks.get("dp", 0), piece
        for name, piece in saved.get("gradient_accumulator", {}).items():
            yield name, _MASTER, ranks["tp"], ranks.get("dp", 0), piece


def _restore_masters(optimizer: Any, masters: State) -> None:
    while not hasattr(optimizer, "gradient_accumulator"):
        optimizer = optimizer.optimizer
    # nanotron makes these buffers in inference mode, outside of which they may not be written.
    with torch.inference_mode():
        for name, entry in optimizer.gradient_accumulator.parameters.items():
            entry["fp32"].view(-1).copy_(masters[name].reshape(-1))
