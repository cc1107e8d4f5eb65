"""BERT in two libraries: its configuration and its weights, in transformers' terms and in nanotron's.

nanotron has no encoder; `nanotron/networks/encoder.py` builds one of its parts, which keeps query, key and value in one
matrix.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM

from llmrecipe.engines.models.llama import Split, Weights
from llmrecipe.recipe.model import Bert, Encoder

_EMBEDDINGS = "model.embeddings.pp_block."
_HEAD = "model.head.pp_block."
_OUTPUT = "model.lm_head.pp_block."

_WHOLE = {
    f"{_EMBEDDINGS}token_embedding.weight": "bert.embeddings.word_embeddings.weight",
    f"{_EMBEDDINGS}position_embedding.weight": "bert.embeddings.position_embeddings.weight",
    f"{_EMBEDDINGS}segment_embedding.weight": "bert.embeddings.token_type_embeddings.weight",
    f"{_EMBEDDINGS}layer_norm.weight": "bert.embeddings.LayerNorm.weight",
    f"{_EMBEDDINGS}layer_norm.bias": "bert.embeddings.LayerNorm.bias",
    f"{_HEAD}dense.weight": "cls.predictions.transform.dense.weight",
    f"{_HEAD}dense.bias": "cls.predictions.transform.dense.bias",
    f"{_HEAD}layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
    f"{_HEAD}layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
    f"{_OUTPUT}bias": "cls.predictions.bias",
}

_IN_LAYER = {
    "o_proj": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up_proj": "intermediate.dense",
    "down_proj": "output.dense",
    "output_norm": "output.LayerNorm",
}


def transformers_config(model: Bert, vocab_size: int, end_of_text_id: int) -> BertConfig:
    """The configuration of `BertForMaskedLM` for a tokenizer of `vocab_size` tokens.

    It names no padding token, which transformers would never train: `end_of_text_id` is one of the text's.
    """
    return BertConfig(
        architectures=["BertForMaskedLM"],
        vocab_size=model.padded_vocab_size(vocab_size),
        hidden_size=model.hidden_size,
        intermediate_size=model.feed_forward_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        max_position_embeddings=model.max_position_embeddings,
        initializer_range=model.initializer_range,
        layer_norm_eps=model.layer_norm_eps,
        eos_token_id=end_of_text_id,
        pad_token_id=None,
    )


def nanotron_config(model: Encoder, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
    """The `model_config` of a nanotron configuration.

    nanotron knows decoders only: this is a Llama's, of which its trainer reads the sizes; the network itself is built
    from the recipe.
    """
    return {
        "is_llama_config": True,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": None,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.feed_forward_size,
        "max_position_embeddings": model.max_position_embeddings,
        "num_attention_heads": model.num_attention_heads,
        "num_hidden_layers": model.num_layers,
        "num_key_value_heads": model.num_attention_heads,
        "tie_word_embeddings": True,
        "vocab_size": model.padded_vocab_size(vocab_size),
    }


def initial_weights(model: Bert, vocab_size: int, end_of_text_id: int, seed: int) -> Weights:
    """The weights that transformers draws for this model and seed, in float32, under nanotron's names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BertForMaskedLM(transformers_config(model, vocab_size, end_of_text_id))
    return from_transformers(network.state_dict(), model)


def initial_context_head(model: Bert, seed: int) -> Weights:
    """The weights of the head that predicts the tokens before spans, drawn as transformers draws the other's."""
    generator = torch.Generator().manual_seed(seed)
    width = model.hidden_size
    return {
        f"{_HEAD}context_dense.weight": torch.empty(width, width).normal_(
            0, model.initializer_range, generator=generator
        ),
        f"{_HEAD}context_dense.bias": torch.zeros(width),
        f"{_HEAD}context_layer_norm.weight": torch.ones(width),
        f"{_HEAD}context_layer_norm.bias": torch.zeros(width),
    }


def from_transformers(state: Mapping[str, torch.Tensor], model: Bert) -> Weights:
    """transformers' weights under nanotron's names."""
    weights = {ours: state[theirs] for ours, theirs in _WHOLE.items()}
    for layer in range(model.num_layers):
        theirs, ours = f"bert.encoder.layer.{layer}.", _layer(layer)
        for kind in ("weight", "bias"):
            parts = [state[f"{theirs}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            weights[f"{ours}qkv_proj.{kind}"] = torch.cat(parts)
            for our_name, their_name in _IN_LAYER.items():
                weights[f"{ours}{our_name}.{kind}"] = state[f"{theirs}{their_name}.{kind}"]
    return weights


def to_transformers(weights: Mapping[str, torch.Tensor], model: Bert) -> Weights:
    """nanotron's weights under transformers' names, without the head for the tokens before spans."""
    state = {theirs: weights[ours] for ours, theirs in _WHOLE.items()}
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
    for layer in range(model.num_layers):
        theirs, ours = f"bert.encoder.layer.{layer}.", _layer(layer)
        for kind in ("weight", "bias"):
            parts = weights[f"{ours}qkv_proj.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                state[f"{theirs}attention.self.{name}.{kind}"] = part.contiguous()
            for our_name, their_name in _IN_LAYER.items():
                state[f"{theirs}{their_name}.{kind}"] = weights[f"{ours}{our_name}.{kind}"]
    return state


def transformers_network(
    weights: Mapping[str, torch.Tensor], model: Bert, vocab_size: int, end_of_text_id: int
) -> BertForMaskedLM:
    """transformers' network with nanotron's weights, in the number format that they have."""
    dtype = next(iter(weights.values())).dtype
    with torch.device("meta"):
        network = BertForMaskedLM(transformers_config(model, vocab_size, end_of_text_id)).to(dtype)
    # Its buffers hold the numbers of the positions.
    network.to_empty(device="cpu")
    network.bert.embeddings.position_ids = torch.arange(model.max_position_embeddings)[None]
    network.bert.embeddings.token_type_ids = torch.zeros_like(network.bert.embeddings.position_ids)
    network.load_state_dict(to_transformers(weights, model), assign=True)
    network.tie_weights()
    return network


def split(name: str, tensor: torch.Tensor, model: Bert) -> Split | None:
    """How nanotron shards this weight over tensor-parallel ranks; None keeps it whole on each."""
    module, _, kind = name.rpartition(".")
    if module.endswith("qkv_proj"):
        return Split(0, (model.hidden_size,) * 3)
    if module.endswith(("up_proj", "lm_head.pp_block", "token_embedding")):
        return Split(0, (tensor.shape[0],))
    if module.endswith(("o_proj", "down_proj")) and kind == "weight":
        return Split(1, (tensor.shape[1],))
    # Norms, positions and the head's dense layer; the bias of a row-parallel layer stays with the first rank.
    return None


def _layer(index: int) -> str:
    return f"model.encoder.{index}.pp_block."
