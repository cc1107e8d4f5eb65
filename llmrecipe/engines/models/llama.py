"""Llama in two libraries: its configuration and its weights, in transformers' terms and in nanotron's.

nanotron keeps query, key and value in one matrix, gate and up in another, and pairs neighbouring channels in its
rotary positions where transformers pairs the halves of a head.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrecipe.recipe.model import Llama

Weights = dict[str, torch.Tensor]


@attrs.frozen
class Split:
    """Along which dimension tensor parallelism cuts a weight, and into which blocks before that."""

    dim: int
    blocks: tuple[int, ...]


def transformers_config(model: Llama, vocab_size: int, end_of_text_id: int) -> LlamaConfig:
    """The configuration of `LlamaForCausalLM` for a tokenizer of `vocab_size` tokens."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=model.padded_vocab_size(vocab_size),
        hidden_size=model.hidden_size,
        intermediate_size=model.feed_forward_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_key_value_heads,
        max_position_embeddings=model.max_position_embeddings,
        initializer_range=model.initializer_range,
        rms_norm_eps=model.rms_norm_eps,
        tie_word_embeddings=model.tie_word_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": float(model.rope_theta)},
        bos_token_id=end_of_text_id,
        eos_token_id=end_of_text_id,
        pad_token_id=end_of_text_id,
    )


def nanotron_config(model: Llama, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
    """The `model_config` of a nanotron configuration; nanotron has no key for `rope_theta`.

    `pad_token_id` stays empty: nanotron would use it as an index into a shard of the embedding.
    """
    return {
        "is_llama_config": True,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": None,
        "hidden_act": "silu",
        "hidden_size": model.hidden_size,
        "initializer_range": model.initializer_range,
        "intermediate_size": model.feed_forward_size,
        "max_position_embeddings": model.max_position_embeddings,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_key_value_heads,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": model.tie_word_embeddings,
        "use_cache": True,
        "vocab_size": model.padded_vocab_size(vocab_size),
    }


def initial_weights(model: Llama, vocab_size: int, end_of_text_id: int, seed: int) -> Weights:
    """The weights that transformers draws for this model and seed, in float32, under nanotron's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = LlamaForCausalLM(transformers_config(model, vocab_size, end_of_text_id))
    return from_transformers(network.state_dict(), model)


def from_transformers(state: Mapping[str, torch.Tensor], model: Llama) -> Weights:
    """transformers' weights under nanotron's names."""
    weights = {_EMBEDDING: state["model.embed_tokens.weight"], _FINAL_NORM: state["model.norm.weight"]}
    if not model.tie_word_embeddings:
        weights[_HEAD] = state["lm_head.weight"]
    for layer in range(model.num_layers):
        theirs, ours = f"model.layers.{layer}.", _layer(layer)
        query, key, value = (state[f"{theirs}self_attn.{name}_proj.weight"] for name in "qkv")
        weights[f"{ours}attn.qkv_proj.weight"] = torch.cat(
            (interleave(query, model.head_dim), interleave(key, model.head_dim), value)
        )
        gate, up = state[f"{theirs}mlp.gate_proj.weight"], state[f"{theirs}mlp.up_proj.weight"]
        weights[f"{ours}mlp.gate_up_proj.weight"] = torch.cat((gate, up))
        for our_name, their_name in _SAME:
            weights[ours + our_name] = state[theirs + their_name]
    return weights


def to_transformers(weights: Mapping[str, torch.Tensor], model: Llama) -> Weights:
    """nanotron's weights under transformers' names."""
    state = {
        "model.embed_tokens.weight": weights[_EMBEDDING],
        "model.norm.weight": weights[_FINAL_NORM],
        "lm_head.weight": weights[_EMBEDDING if model.tie_word_embeddings else _HEAD],
    }
    for layer in range(model.num_layers):
        theirs, ours = f"model.layers.{layer}.", _layer(layer)
        query, key, value = weights[f"{ours}attn.qkv_proj.weight"].split(_qkv_blocks(model))
        state[f"{theirs}self_attn.q_proj.weight"] = deinterleave(query, model.head_dim)
        state[f"{theirs}self_attn.k_proj.weight"] = deinterleave(key, model.head_dim)
        state[f"{theirs}self_attn.v_proj.weight"] = value.contiguous()
        gate, up = weights[f"{ours}mlp.gate_up_proj.weight"].chunk(2)
        state[f"{theirs}mlp.gate_proj.weight"] = gate.contiguous()
        state[f"{theirs}mlp.up_proj.weight"] = up.contiguous()
        for our_name, their_name in _SAME:
            state[theirs + their_name] = weights[ours + our_name]
    return state


def transformers_network(
    weights: Mapping[str, torch.Tensor], model: Llama, vocab_size: int, end_of_text_id: int
) -> LlamaForCausalLM:
    """transformers' network with nanotron's weights, in the number format that they have."""
    dtype = next(iter(weights.values())).dtype
    with torch.device("meta"):
        network = LlamaForCausalLM(transformers_config(model, vocab_size, end_of_text_id)).to(dtype)
    network.load_state_dict(to_transformers(weights, model), assign=True)
    network.tie_weights()
    return network


def split(name: str, tensor: torch.Tensor, model: Llama) -> Split | None:
    """How nanotron shards this weight over tensor-parallel ranks; None keeps it whole on each."""
    if name == _FINAL_NORM or name.endswith("layernorm.weight"):
        return None
    if name.endswith("qkv_proj.weight"):
        return Split(0, _qkv_blocks(model))
    if name.endswith("gate_up_proj.weight"):
        return Split(0, (model.feed_forward_size, model.feed_forward_size))
    dim = 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
    return Split(dim, (tensor.shape[dim],))


_EMBEDDING = "model.token_position_embeddings.pp_block.token_embedding.weight"
_HEAD = "model.lm_head.pp_block.weight"
_FINAL_NORM = "model.final_layer_norm.pp_block.weight"
_SAME = (
    ("attn.o_proj.weight", "self_attn.o_proj.weight"),
    ("mlp.down_proj.weight", "mlp.down_proj.weight"),
    ("input_layernorm.weight", "input_layernorm.weight"),
    ("post_attention_layernorm.weight", "post_attention_layernorm.weight"),
)


def _layer(index: int) -> str:
    return f"model.decoder.{index}.pp_block."


def _qkv_blocks(model: Llama) -> tuple[int, int, int]:
    key_value = model.num_key_value_heads * model.head_dim
    return model.num_attention_heads * model.head_dim, key_value, key_value


def interleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Rows of queries or keys, those that are rotated together side by side, as nanotron pairs them."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).reshape(weight.shape)


def deinterleave(weight: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The other way: half a head apart, as transformers pairs them."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).reshape(weight.shape)
