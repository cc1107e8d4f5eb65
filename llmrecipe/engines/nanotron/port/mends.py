"""What nanotron 0.4 gets wrong outside its trainer, one named mend each."""

from typing import Any

import nanotron.distributed
import nanotron.helpers
import nanotron.serialize.weights
import nanotron.trainer
import torch
import torch.distributed
from nanotron.parallel.pipeline_parallel import p2p
from nanotron.parallel.tensor_parallel import functional
from nanotron.serialize.metadata import TensorMetadata

from llmrecipe.engines.nanotron.port import data_parallel, linear

_sends: list[tuple[Any, torch.Tensor]] = []


def apply(device: str) -> None:
    """Put the mends in place, those for gloo on a CPU only."""
    # Nothing draws random numbers as it trains, so there is no state of them to keep.
    nanotron.trainer.save_random_states = lambda **_: None
    # A bar for every checkpoint, across the run's own progress.
    nanotron.serialize.weights.tqdm = lambda iterable, **_: iterable
    TensorMetadata.to_str_dict = _to_str_dict_of_plain_integers
    nanotron.helpers.get_fp32_accum_hook = data_parallel.get_fp32_accum_hook
    # The module that it calls `F`, for its `linear` alone.
    functional.F = linear
    if device == "cpu":
        nanotron.distributed.initialize_torch_distributed = _initialize_gloo
        nanotron.distributed.send = _buffered_send
        p2p.P2P.send_tensors = _buffered_send_tensors


def finish_sends() -> None:
    """Wait for the pipeline's sends of this step and release their tensors.

    A gloo send is not complete until it is waited for: without this every activation sent stays in memory.
    """
    for work, _ in _sends:
        work.wait()
    _sends.clear()


_to_str_dict = TensorMetadata.to_str_dict


def _to_str_dict_of_plain_integers(self: TensorMetadata) -> dict[str, str]:
    # numpy 2 prints np.int64(256), which nanotron can't read back when the layout changes.
    self.unsharded_shape = tuple(int(size) for size in self.unsharded_shape)
    return _to_str_dict(self)


def _initialize_gloo() -> bool:
    # nanotron refuses to start without CUDA.
    torch.distributed.init_process_group(backend="gloo", timeout=nanotron.distributed.default_pg_timeout)
    return True


def _buffered_send(tensor: torch.Tensor, dst: int, group: Any = None, tag: int = 0) -> None:
    # A gloo send blocks until it is received, NCCL's does not: one-forward-one-backward would deadlock.
    copy = tensor.detach().clone()
    work = torch.distributed.isend(copy, dst=dst, group=group, tag=tag)
    # None for a rank that isn't in the group.
    if work is not None:
        _sends.append((work, copy))


def _buffered_send_tensors(self: p2p.P2P, tensors: list[torch.Tensor], to_rank: int, tag: int = 0) -> None:
    _sends.extend(zip(self.isend_tensors(tensors=tensors, to_rank=to_rank, tag=tag), tensors, strict=True))
