"""The network, the batches and the logits of any network and objective."""

import importlib
import os
from collections.abc import Callable, Mapping

import torch
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models import NanotronModel, build_model
from nanotron.parallel import ParallelContext
from torch import nn

from llmrecipe.engines.models.architecture import RunOptions, architecture_of
from llmrecipe.engines.models.parts import compute_in
from llmrecipe.engines.nanotron.data import Reader, Shard
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.errors import StageError
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.objective import CausalLM, MaskedLM, MultiMaskLM

_READERS: dict[type[Objective], str] = {
    CausalLM: "llmrecipe.engines.nanotron.data",
    MaskedLM: "llmrecipe.engines.nanotron.masked_data",
    MultiMaskLM: "llmrecipe.engines.nanotron.masked_data",
}
"""By objective, the module whose `reader(job, split, shard)` makes its batches."""


def network_of(job: Job) -> Callable[..., NanotronModel]:
    """What builds the network of a run."""
    return architecture_of(job.network).nanotron_network(job.network, job.options)


def reader_of(job: Job, split: str, shard: Shard) -> Reader:
    """What reads a split of the corpora for the run's objective.

    Raises:
        StageError: nothing is known to read for it.
    """
    objective = type(job.section.objective)
    module = objective.module or _READERS.get(objective)
    if module is None:
        raise StageError(
            f"{objective.__name__} names no module with a `reader`; set `module` of the class (see "
            "docs/architecture.md)"
        )
    reader: Reader = importlib.import_module(module).reader(job, split, shard)
    return reader


@torch.no_grad()
def logits(
    weights: Mapping[str, torch.Tensor], network: Network, vocab_size: int, end_of_text_id: int, input_ids: torch.Tensor
) -> torch.Tensor:
    """nanotron's logits for `input_ids` `[batch, length]`, computed in float32 part by part.

    Returns:
        float32 `[batch, length, vocab_size]`, without padding.
    """
    context, architecture = single_process_context(), architecture_of(network)
    builder = architecture.nanotron_network(network, RunOptions(vocab_size=vocab_size))
    built = build_model(
        model_builder=lambda: builder(
            config=LlamaConfig(**architecture.nanotron_config(network, vocab_size, end_of_text_id)),
            parallel_context=context,
            parallel_config=ParallelismArgs(dp=1, pp=1, tp=1),
        ),
        parallel_context=context,
        dtype=torch.float32,
        device=torch.device("meta"),
    )
    for name, parameter in list(built.named_parameters()):
        # An output layer that is tied has no weights of its own on disk.
        given = weights[name] if name in weights else weights[built.get_embeddings_lm_head_tied_names()[0]]
        if given.shape != parameter.shape:
            raise ValueError(
                f"{name} has the shape {tuple(given.shape)}, and the network needs {tuple(parameter.shape)}"
            )
        module, _, leaf = name.rpartition(".")
        setattr(built.get_submodule(module), leaf, nn.Parameter(given, requires_grad=False))
    compute_in(built, torch.float32)
    return architecture.logits(built, input_ids)[..., :vocab_size]


def join_single_process() -> None:
    """Make this process the only rank."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def single_process_context() -> ParallelContext:
    """nanotron's groups of ranks, of this process alone."""
    join_single_process()
    return ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)
