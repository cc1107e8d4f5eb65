"""The network, the batches and the logits of any model and objective."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models import NanotronModel, build_model
from nanotron.parallel import ParallelContext

from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron.data import CausalReader, Reader, Shard
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.masked_data import MaskedReader
from llmrecipe.engines.nanotron.networks.decoder import LlamaNetwork
from llmrecipe.engines.nanotron.networks.encoder import EncoderNetwork
from llmrecipe.engines.tokens.fill_in_the_middle import Rearrangement
from llmrecipe.recipe import training
from llmrecipe.recipe.model import Llama, Model
from llmrecipe.recipe.objective import CausalLM


def network_of(job: Job) -> Callable[..., NanotronModel]:
    """The class of the network, with all that the recipe says of it."""
    section = job.section
    options = {
        "dropout": section.training.dropout,
        "seed": section.training.seed,
        "z_loss": section.training.z_loss,
        "recompute": section.parallelism.recompute_activations,
    }
    if isinstance(section.model, Llama):
        restarts = section.objective.restart_at_documents
        return functools.partial(
            LlamaNetwork, rope_theta=section.model.rope_theta, restart_at_documents=restarts, **options
        )
    context = {"predicts_context": job.predicts_context}
    return functools.partial(EncoderNetwork, model=section.model, device=job.runtime.device, **context, **options)


def reader_of(job: Job, split: str, shard: Shard) -> Reader:
    """What reads a split of the corpora for the recipe's objective."""
    files, objective, parallelism = job.open_tokens(split), job.section.objective, job.section.parallelism
    if isinstance(objective, CausalLM):
        # Held-out text is read as it stands.
        options = objective.fill_in_the_middle if split == "train" else None
        rearrangement = options and Rearrangement(
            options=options,
            token_ids=files.special_ids(options.tokens),
            end_of_text_id=files.end_of_text_id,
            seed=job.section.training.seed,
        )
        length = objective.sequence_length
        return CausalReader(files=files, shard=shard, sequence_length=length, rearrangement=rearrangement)
    return MaskedReader(
        files=files,
        shard=shard,
        objective=objective,
        seed=job.section.training.seed,
        vocabulary=files.masked_vocabulary,
        multiple=parallelism.tensor,
    )


@torch.no_grad()
def logits(
    weights: Mapping[str, torch.Tensor], model: Model, vocab_size: int, end_of_text_id: int, input_ids: torch.Tensor
) -> torch.Tensor:
    """nanotron's float32 logits for `input_ids` `[batch, length]`: `[batch, length, padded vocabulary]`."""
    context = _single_process_context()
    options = {"dropout": training.Dropout(), "seed": 0, "z_loss": 0.0, "recompute": False}
    if isinstance(model, Llama):
        builder = functools.partial(LlamaNetwork, rope_theta=model.rope_theta, restart_at_documents=False, **options)
    else:
        builder = functools.partial(EncoderNetwork, model=model, device="cpu", predicts_context=False, **options)
    network = build_model(
        model_builder=lambda: builder(
            config=LlamaConfig(**architecture_of(model).nanotron_config(model, vocab_size, end_of_text_id)),
            parallel_context=context,
            parallel_config=ParallelismArgs(dp=1, pp=1, tp=1),
        ),
        parallel_context=context,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        # An output layer that is tied has no weights of its own on disk.
        parameter.copy_(weights[name] if name in weights else weights[network.get_embeddings_lm_head_tied_names()[0]])
    everywhere = {"input_ids": input_ids, "input_mask": torch.ones_like(input_ids, dtype=torch.bool)}
    if isinstance(model, Llama):
        return network.model(**everywhere).transpose(0, 1)
    batch, length = input_ids.shape
    places: dict[str, Any] = {
        "positions": torch.arange(length * batch),
        "is_context": torch.zeros(length * batch, dtype=torch.bool),
    }
    return network.model(**everywhere, **places).view(length, batch, -1).transpose(0, 1)


def join_single_process() -> None:
    """Make this process the only rank."""
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)


def _single_process_context() -> ParallelContext:
    join_single_process()
    return ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)
