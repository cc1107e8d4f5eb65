"""nanotron's Llama network: the base of its rotary positions, and its forward pass in one process."""

import os
from collections.abc import Mapping

import torch
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models import build_model
from nanotron.models.llama import CausalSelfAttention, LlamaForTraining, RotaryEmbedding
from nanotron.parallel import ParallelContext

from llmrecipe.engines.nanotron import llama
from llmrecipe.recipe.model import Llama


def set_rope_theta(network: torch.nn.Module, rope_theta: float) -> None:
    """Give every attention layer this base; nanotron 0.4 has no key for it and trains with 10,000."""
    for module in network.modules():
        if isinstance(module, CausalSelfAttention):
            rotary = type(module.flash_rotary_embedding)
            module.flash_rotary_embedding = rotary(dim=module.d_qk, base=float(rope_theta), interleaved=True)


@torch.no_grad()
def logits(
    weights: Mapping[str, torch.Tensor], model: Llama, vocab_size: int, end_of_text_id: int, input_ids: torch.Tensor
) -> torch.Tensor:
    """nanotron's float32 logits for `input_ids` `[batch, length]`: `[batch, length, padded vocabulary]`."""
    context = _single_process_context()
    network = build_model(
        model_builder=lambda: LlamaForTraining(
            config=LlamaConfig(**llama.nanotron_config(model, vocab_size, end_of_text_id)),
            parallel_context=context,
            parallel_config=ParallelismArgs(dp=1, pp=1, tp=1),
        ),
        parallel_context=context,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    for module in network.modules():
        if isinstance(module, RotaryEmbedding):
            module.init_rotary_embeddings()
    set_rope_theta(network, model.rope_theta)
    parameters = dict(network.named_parameters())
    for name, tensor in weights.items():
        parameters.pop(name).copy_(tensor)
    if model.tie_word_embeddings:
        network.model.lm_head.pp_block.weight.copy_(
            network.model.token_position_embeddings.pp_block.token_embedding.weight
        )
    network.eval()
    return network.model(input_ids=input_ids, input_mask=torch.ones_like(input_ids, dtype=torch.bool)).transpose(0, 1)


def _single_process_context() -> ParallelContext:
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return ParallelContext(tensor_parallel_size=1, pipeline_parallel_size=1, data_parallel_size=1)
