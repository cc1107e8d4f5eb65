"""Llama in two libraries: its configuration and its weights, in transformers' terms and in nanotron's.

nanotron keeps query, key and value in one matrix, gate and up in another, and pairs neighbouring channels in its
rotary positions where transformers pairs the halves of a head.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrecipe.engines.models.architecture import Architecture, RunOptions
from llmrecipe.engines.models.tensors import Split, Weights, deinterleave, interleave
from llmrecipe.recipe.network import Llama

if TYPE_CHECKING:
    from nanotron.models import NanotronModel

_EMBEDDING = "model.token_position_embeddings.pp_block.token_embedding.weight"
_HEAD = "model.lm_head.pp_block.weight"
_FINAL_NORM = "model.final_layer_norm.pp_block.weight"
_SAME = (
    ("attn.o_proj.weight", "self_attn.o_proj.weight"),
    ("mlp.down_proj.weight", "mlp.down_proj.weight"),
    ("input_layernorm.weight", "input_layernorm.weight"),
    ("post_attention_layernorm.weight", "post_attention_layernorm.weight"),
)


class LlamaArchitecture(Architecture[Llama]):
    """Llama, and networks like it."""

    transformers_class = LlamaForCausalLM

    def transformers_config(self, network: Llama, vocab_size: int, end_of_text_id: int) -> LlamaConfig:
        """The configuration of `LlamaForCausalLM` for a tokenizer of `vocab_size` tokens."""
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            vocab_size=network.padded_vocab_size(vocab_size),
            hidden_size=network.hidden_size,
            intermediate_size=network.feed_forward_size,
            num_hidden_layers=network.num_layers,
            num_attention_heads=network.num_attention_heads,
            num_key_value_heads=network.num_key_value_heads,
            max_position_embeddings=network.max_position_embeddings,
            initializer_range=network.initializer_range,
            rms_norm_eps=network.rms_norm_eps,
            tie_word_embeddings=network.tie_word_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": float(network.rope_theta)},
            bos_token_id=end_of_text_id,
            eos_token_id=end_of_text_id,
            pad_token_id=end_of_text_id,
        )

    def from_transformers(self, state: Mapping[str, torch.Tensor], network: Llama) -> Weights:
        """transformers' weights under nanotron's names."""
        weights = {_EMBEDDING: state["model.embed_tokens.weight"], _FINAL_NORM: state["model.norm.weight"]}
        if not network.tie_word_embeddings:
            weights[_HEAD] = state["lm_head.weight"]
        for layer in range(network.num_layers):
            theirs, ours = f"model.layers.{layer}.", _layer(layer)
            query, key, value = (state[f"{theirs}self_attn.{name}_proj.weight"] for name in "qkv")
            weights[f"{ours}attn.qkv_proj.weight"] = torch.cat(
                (interleave(query, network.head_dim), interleave(key, network.head_dim), value)
            )
            gate, up = state[f"{theirs}mlp.gate_proj.weight"], state[f"{theirs}mlp.up_proj.weight"]
            weights[f"{ours}mlp.gate_up_proj.weight"] = torch.cat((gate, up))
            for our_name, their_name in _SAME:
                weights[ours + our_name] = state[theirs + their_name]
        return weights

    def to_transformers(self, weights: Mapping[str, torch.Tensor], network: Llama) -> Weights:
        """nanotron's weights under transformers' names."""
        state = {
            "model.embed_tokens.weight": weights[_EMBEDDING],
            "model.norm.weight": weights[_FINAL_NORM],
            "lm_head.weight": weights[_EMBEDDING if network.tie_word_embeddings else _HEAD],
        }
        for layer in range(network.num_layers):
            theirs, ours = f"model.layers.{layer}.", _layer(layer)
            query, key, value = weights[f"{ours}attn.qkv_proj.weight"].split(_qkv_blocks(network))
            state[f"{theirs}self_attn.q_proj.weight"] = deinterleave(query, network.head_dim)
            state[f"{theirs}self_attn.k_proj.weight"] = deinterleave(key, network.head_dim)
            state[f"{theirs}self_attn.v_proj.weight"] = value.contiguous()
            gate, up = weights[f"{ours}mlp.gate_up_proj.weight"].chunk(2)
            state[f"{theirs}mlp.gate_proj.weight"] = gate.contiguous()
            state[f"{theirs}mlp.up_proj.weight"] = up.contiguous()
            for our_name, their_name in _SAME:
                state[theirs + their_name] = weights[ours + our_name]
        return state

    def split(self, name: str, tensor: torch.Tensor, network: Llama) -> Split | None:
        """How nanotron shards this weight over tensor-parallel ranks; None keeps it whole on each."""
        if name == _FINAL_NORM or name.endswith("layernorm.weight"):
            return None
        if name.endswith("qkv_proj.weight"):
            return Split(0, _qkv_blocks(network))
        if name.endswith("gate_up_proj.weight"):
            return Split(0, (network.feed_forward_size, network.feed_forward_size))
        dim = 1 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0
        return Split(dim, (tensor.shape[dim],))

    def nanotron_config(self, network: Llama, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
        """The `model_config` of a nanotron configuration; nanotron has no key for `rope_theta`.

        `pad_token_id` stays empty: nanotron would use it as an index into a shard of the embedding.
        """
        return {
            "is_llama_config": True,
            "bos_token_id": end_of_text_id,
            "eos_token_id": end_of_text_id,
            "pad_token_id": None,
            "hidden_act": "silu",
            "hidden_size": network.hidden_size,
            "initializer_range": network.initializer_range,
            "intermediate_size": network.feed_forward_size,
            "max_position_embeddings": network.max_position_embeddings,
            "num_attention_heads": network.num_attention_heads,
            "num_hidden_layers": network.num_layers,
            "num_key_value_heads": network.num_key_value_heads,
            "rms_norm_eps": network.rms_norm_eps,
            "rope_scaling": None,
            "tie_word_embeddings": network.tie_word_embeddings,
            "use_cache": True,
            "vocab_size": network.padded_vocab_size(vocab_size),
        }

    def nanotron_network(self, network: Llama, options: RunOptions) -> "Callable[..., NanotronModel]":
        """nanotron's Llama with what it lacks."""
        from llmrecipe.engines.nanotron.networks.decoder import LlamaNetwork

        return functools.partial(LlamaNetwork, rope_theta=network.rope_theta, options=options)

    def logits(self, built: "NanotronModel", input_ids: torch.Tensor) -> torch.Tensor:
        """float32 `[batch, length, padded vocabulary]` of a network on one rank, from `[batch, length]`."""
        everywhere = torch.ones_like(input_ids, dtype=torch.bool)
        return built.model(input_ids=input_ids, input_mask=everywhere).transpose(0, 1)


ARCHITECTURE = LlamaArchitecture()


def _layer(index: int) -> str:
    return f"model.decoder.{index}.pp_block."


def _qkv_blocks(network: Llama) -> tuple[int, int, int]:
    key_value = network.num_key_value_heads * network.head_dim
    return network.num_attention_heads * network.head_dim, key_value, key_value
