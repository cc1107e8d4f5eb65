"""ModernBERT in two libraries: its configuration and its weights, in transformers' terms and in nanotron's.

As in `llama.py`, rotary positions pair neighbouring channels where transformers pairs the halves of a head.
"""

import math
from collections.abc import Mapping

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from llmrecipe.engines.models import bert
from llmrecipe.engines.models.llama import Split, Weights, deinterleave, interleave
from llmrecipe.recipe.model import ModernBert

nanotron_config = bert.nanotron_config

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


def transformers_config(model: ModernBert, vocab_size: int, end_of_text_id: int) -> ModernBertConfig:
    """The configuration of `ModernBertForMaskedLM` for a tokenizer of `vocab_size` tokens.

    Special tokens are the tokenizer's own, not those of the published ModernBERT. It names no padding token, which
    transformers would never train: `end_of_text_id` is one of the text's.
    """
    return ModernBertConfig(
        architectures=["ModernBertForMaskedLM"],
        vocab_size=model.padded_vocab_size(vocab_size),
        hidden_size=model.hidden_size,
        intermediate_size=model.feed_forward_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        max_position_embeddings=model.max_position_embeddings,
        initializer_range=model.initializer_range,
        norm_eps=model.layer_norm_eps,
        layer_types=["full_attention"] * model.num_layers,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": float(model.rope_theta)}},
        eos_token_id=end_of_text_id,
        bos_token_id=None,
        cls_token_id=None,
        sep_token_id=None,
        pad_token_id=None,
    )


def initial_weights(model: ModernBert, vocab_size: int, end_of_text_id: int, seed: int) -> Weights:
    """The weights that transformers draws for this model and seed, in float32, under nanotron's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ModernBertForMaskedLM(transformers_config(model, vocab_size, end_of_text_id))
    return from_transformers(network.state_dict(), model)


def initial_context_head(model: ModernBert, seed: int) -> Weights:
    """The weights of the head that predicts the tokens before spans, drawn as transformers draws the other's."""
    generator = torch.Generator().manual_seed(seed)
    width, deviation = model.hidden_size, model.initializer_range / math.sqrt(2 * model.num_layers)
    dense = torch.empty(width, width)
    torch.nn.init.trunc_normal_(dense, std=deviation, a=-2 * deviation, b=2 * deviation, generator=generator)
    return {f"{_HEAD}context_dense.weight": dense, f"{_HEAD}context_layer_norm.weight": torch.ones(width)}


def from_transformers(state: Mapping[str, torch.Tensor], model: ModernBert) -> Weights:
    """transformers' weights under nanotron's names."""
    weights = {ours: state[theirs] for ours, theirs in _same(model).items()}
    head_dim = model.hidden_size // model.num_attention_heads
    for layer in range(model.num_layers):
        query, key, value = state[f"model.layers.{layer}.attn.Wqkv.weight"].chunk(3)
        rotated = (interleave(query, head_dim), interleave(key, head_dim))
        weights[f"{_layer(layer)}qkv_proj.weight"] = torch.cat((*rotated, value))
    return weights


def to_transformers(weights: Mapping[str, torch.Tensor], model: ModernBert) -> Weights:
    """nanotron's weights under transformers' names, without the head for the tokens before spans."""
    state = {theirs: weights[ours] for ours, theirs in _same(model).items()}
    state["decoder.weight"] = state["model.embeddings.tok_embeddings.weight"]
    head_dim = model.hidden_size // model.num_attention_heads
    for layer in range(model.num_layers):
        query, key, value = weights[f"{_layer(layer)}qkv_proj.weight"].chunk(3)
        rotated = (deinterleave(query, head_dim), deinterleave(key, head_dim))
        state[f"model.layers.{layer}.attn.Wqkv.weight"] = torch.cat((*rotated, value))
    return state


def transformers_network(
    weights: Mapping[str, torch.Tensor], model: ModernBert, vocab_size: int, end_of_text_id: int
) -> ModernBertForMaskedLM:
    """transformers' network with nanotron's weights, in the number format that they have."""
    dtype = next(iter(weights.values())).dtype
    with torch.device("meta"):
        network = ModernBertForMaskedLM(transformers_config(model, vocab_size, end_of_text_id)).to(dtype)
    network.load_state_dict(to_transformers(weights, model), assign=True)
    network.tie_weights()
    # Its frequencies are no weights.
    network.model.rotary_emb = type(network.model.rotary_emb)(network.config)
    return network


def split(name: str, tensor: torch.Tensor, model: ModernBert) -> Split | None:
    """How nanotron shards this weight over tensor-parallel ranks; None keeps it whole on each."""
    module = name.rpartition(".")[0]
    if module.endswith("qkv_proj"):
        return Split(0, (model.hidden_size,) * 3)
    if module.endswith("gate_up_proj"):
        return Split(0, (model.feed_forward_size,) * 2)
    if module.endswith(("lm_head.pp_block", "token_embedding")):
        return Split(0, (tensor.shape[0],))
    if module.endswith(("o_proj", "down_proj")):
        return Split(1, (tensor.shape[1],))
    # Norms and the head's dense layer.
    return None


def _same(model: ModernBert) -> dict[str, str]:
    """Names of the weights that are the same in both libraries: nanotron's, and transformers' to each."""
    names = dict(_WHOLE)
    for layer in range(model.num_layers):
        for ours, theirs in _IN_LAYER.items():
            # The first layer has none: the embeddings end with a norm.
            if layer or ours != "attention_norm":
                names[f"{_layer(layer)}{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    return names


def _layer(index: int) -> str:
    return f"model.encoder.{index}.pp_block."
