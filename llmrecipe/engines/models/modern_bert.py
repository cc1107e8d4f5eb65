"""ModernBERT in two libraries: its configuration and its weights, in transformers' terms and in nanotron's.

As in `llama.py`, rotary positions pair neighbouring channels where transformers pairs the halves of a head.
"""

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llmrecipe.engines.models.encoder import EncoderArchitecture
from llmrecipe.engines.models.tensors import Split, Weights, deinterleave, interleave
from llmrecipe.recipe.network import ModernBert

if TYPE_CHECKING:
    from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks

_HEAD = "model.head.pp_block."

_WHOLE = {
    "model.embeddings.pp_block.token_embedding.weight": "model.embeddings.tok_embeddings.weight",
    "model.embeddings.pp_block.layer_norm.weight": "model.embeddings.norm.weight",
    f"{_HEAD}final_norm.weight": "model.final_norm.weight",
    f"{_HEAD}dense.weight": "head.dense.weight",
    f"{_HEAD}layer_norm.weight": "head.norm.weight",
    "model.lm_head.pp_block.bias": "decoder.bias",
}

_IN_LAYER = {
    "attention_norm": "attn_norm",
    "o_proj": "attn.Wo",
    "feed_forward_norm": "mlp_norm",
    "gate_up_proj": "mlp.Wi",
    "down_proj": "mlp.Wo",
}


class ModernBertArchitecture(EncoderArchitecture[ModernBert]):
    """ModernBERT, its attention global in every layer, with its masked-token head."""

    transformers_class = ModernBertForMaskedLM

    def transformers_config(self, network: ModernBert, vocab_size: int, end_of_text_id: int) -> ModernBertConfig:
        """The configuration of `ModernBertForMaskedLM` for a tokenizer of `vocab_size` tokens.

        Special tokens are the tokenizer's own, not those of the published ModernBERT. It names no padding token, which
        transformers would never train: `end_of_text_id` is one of the text's.
        """
        return ModernBertConfig(
            architectures=["ModernBertForMaskedLM"],
            vocab_size=network.padded_vocab_size(vocab_size),
            hidden_size=network.hidden_size,
            intermediate_size=network.feed_forward_size,
            num_hidden_layers=network.num_layers,
            num_attention_heads=network.num_attention_heads,
            max_position_embeddings=network.max_position_embeddings,
            initializer_range=network.initializer_range,
            norm_eps=network.layer_norm_eps,
            layer_types=["full_attention"] * network.num_layers,
            rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": float(network.rope_theta)}},
            eos_token_id=end_of_text_id,
            bos_token_id=None,
            cls_token_id=None,
            sep_token_id=None,
            pad_token_id=None,
        )

    def from_transformers(self, state: Mapping[str, torch.Tensor], network: ModernBert) -> Weights:
        """transformers' weights under nanotron's names."""
        weights = {ours: state[theirs] for ours, theirs in _same(network).items()}
        head_dim = network.hidden_size // network.num_attention_heads
        for layer in range(network.num_layers):
            query, key, value = state[f"model.layers.{layer}.attn.Wqkv.weight"].chunk(3)
            rotated = (interleave(query, head_dim), interleave(key, head_dim))
            weights[f"{_layer(layer)}qkv_proj.weight"] = torch.cat((*rotated, value))
        return weights

    def to_transformers(self, weights: Mapping[str, torch.Tensor], network: ModernBert) -> Weights:
        """nanotron's weights under transformers' names, without the head for the tokens before spans."""
        state = {theirs: weights[ours] for ours, theirs in _same(network).items()}
        state["decoder.weight"] = state["model.embeddings.tok_embeddings.weight"]
        head_dim = network.hidden_size // network.num_attention_heads
        for layer in range(network.num_layers):
            query, key, value = weights[f"{_layer(layer)}qkv_proj.weight"].chunk(3)
            rotated = (deinterleave(query, head_dim), deinterleave(key, head_dim))
            state[f"model.layers.{layer}.attn.Wqkv.weight"] = torch.cat((*rotated, value))
        return state

    def split(self, name: str, tensor: torch.Tensor, network: ModernBert) -> Split | None:
        """How nanotron shards this weight over tensor-parallel ranks; None keeps it whole on each."""
        module = name.rpartition(".")[0]
        if module.endswith("qkv_proj"):
            return Split(0, (network.hidden_size,) * 3)
        if module.endswith("gate_up_proj"):
            return Split(0, (network.feed_forward_size,) * 2)
        if module.endswith(("lm_head.pp_block", "token_embedding")):
            return Split(0, (tensor.shape[0],))
        if module.endswith(("o_proj", "down_proj")):
            return Split(1, (tensor.shape[1],))
        # Norms and the head's dense layer.
        return None

    def context_head(self, network: ModernBert, seed: int) -> Weights:
        """The weights of the head that predicts the tokens before spans, drawn as transformers draws the other's."""
        generator = torch.Generator().manual_seed(seed)
        width, deviation = network.hidden_size, network.initializer_range / math.sqrt(2 * network.num_layers)
        dense = torch.empty(width, width)
        torch.nn.init.trunc_normal_(dense, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)
        return {f"{_HEAD}context_dense.weight": dense, f"{_HEAD}context_layer_norm.weight": torch.ones(width)}

    def fill_buffers(self, built: Any) -> None:
        """The frequencies of its positions."""
        built.model.rotary_emb = type(built.model.rotary_emb)(built.config)

    def masked_logits(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """The logits of the last layer's states."""
        return model.decoder(model.head(states))

    def blocks(self, network: ModernBert) -> "Blocks":
        """ModernBERT's: norms before layers and one at the end, rotary positions, and no biases."""
        from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks, Embeddings, PreNormLayer
        from llmrecipe.engines.nanotron.port.attention import RotaryEmbedding

        head_dim = network.hidden_size // network.num_attention_heads
        rotary = RotaryEmbedding(head_dim, network.rope_theta, interleaved=True)
        layer = functools.partial(PreNormLayer, rotary=rotary)
        return Blocks(
            embeddings=Embeddings, layer=layer, norm_eps=network.layer_norm_eps, has_biases=False, has_final_norm=True
        )


ARCHITECTURE = ModernBertArchitecture()


def _same(network: ModernBert) -> dict[str, str]:
    """Names of the weights that are the same in both libraries: nanotron's, and transformers' to each."""
    names = dict(_WHOLE)
    for layer in range(network.num_layers):
        for ours, theirs in _IN_LAYER.items():
            # The first layer has none: the embeddings end with a norm.
            if layer or ours != "attention_norm":
                names[f"{_layer(layer)}{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    return names


def _layer(index: int) -> str:
    return f"model.encoder.{index}.pp_block."
