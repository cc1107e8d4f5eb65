"""BERT in two libraries: its configuration and its weights, in transformers' terms and in nanotron's.

nanotron has no encoder; `nanotron/networks/encoder.py` builds one of its parts, which keeps query, key and value in one
matrix.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import BertConfig, BertForMaskedLM

from llmrecipe.engines.models.encoder import EncoderArchitecture
from llmrecipe.engines.models.tensors import Split, Weights
from llmrecipe.recipe.network import Bert

if TYPE_CHECKING:
    from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks

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


class BertArchitecture(EncoderArchitecture[Bert]):
    """BERT with its masked-token head."""

    transformers_class = BertForMaskedLM

    def transformers_config(self, network: Bert, vocab_size: int, end_of_text_id: int) -> BertConfig:
        """The configuration of `BertForMaskedLM` for a tokenizer of `vocab_size` tokens.

        It names no padding token, which transformers would never train: `end_of_text_id` is one of the text's.
        """
        return BertConfig(
            architectures=["BertForMaskedLM"],
            vocab_size=network.padded_vocab_size(vocab_size),
            hidden_size=network.hidden_size,
            intermediate_size=network.feed_forward_size,
            num_hidden_layers=network.num_layers,
            num_attention_heads=network.num_attention_heads,
            max_position_embeddings=network.max_position_embeddings,
            initializer_range=network.initializer_range,
            layer_norm_eps=network.layer_norm_eps,
            eos_token_id=end_of_text_id,
            pad_token_id=None,
        )

    def from_transformers(self, state: Mapping[str, torch.Tensor], network: Bert) -> Weights:
        """transformers' weights under nanotron's names."""
        weights = {ours: state[theirs] for ours, theirs in _WHOLE.items()}
        for layer in range(network.num_layers):
            theirs, ours = f"bert.encoder.layer.{layer}.", _layer(layer)
            for kind in ("weight", "bias"):
                parts = [state[f"{theirs}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
                weights[f"{ours}qkv_proj.{kind}"] = torch.cat(parts)
                for our_name, their_name in _IN_LAYER.items():
                    weights[f"{ours}{our_name}.{kind}"] = state[f"{theirs}{their_name}.{kind}"]
        return weights

    def to_transformers(self, weights: Mapping[str, torch.Tensor], network: Bert) -> Weights:
        """nanotron's weights under transformers' names, without the head for the tokens before spans."""
        state = {theirs: weights[ours] for ours, theirs in _WHOLE.items()}
        state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
        state["cls.predictions.decoder.bias"] = state["cls.predictions.bias"]
        for layer in range(network.num_layers):
            theirs, ours = f"bert.encoder.layer.{layer}.", _layer(layer)
            for kind in ("weight", "bias"):
                parts = weights[f"{ours}qkv_proj.{kind}"].chunk(3)
                for name, part in zip(("query", "key", "value"), parts, strict=True):
                    state[f"{theirs}attention.self.{name}.{kind}"] = part.contiguous()
                for our_name, their_name in _IN_LAYER.items():
                    state[f"{theirs}{their_name}.{kind}"] = weights[f"{ours}{our_name}.{kind}"]
        return state

    def split(self, name: str, tensor: torch.Tensor, network: Bert) -> Split | None:
        """How nanotron shards this weight over tensor-parallel ranks; None keeps it whole on each."""
        module, _, kind = name.rpartition(".")
        if module.endswith("qkv_proj"):
            return Split(0, (network.hidden_size,) * 3)
        if module.endswith(("up_proj", "lm_head.pp_block", "token_embedding")):
            return Split(0, (tensor.shape[0],))
        if module.endswith(("o_proj", "down_proj")) and kind == "weight":
            return Split(1, (tensor.shape[1],))
        # Norms, positions and the head's dense layer; the bias of a row-parallel layer stays with the first rank.
        return None

    def context_head(self, network: Bert, seed: int) -> Weights:
        """The weights of the head that predicts the tokens before spans, drawn as transformers draws the other's."""
        generator = torch.Generator().manual_seed(seed)
        width = network.hidden_size
        return {
            f"{_HEAD}context_dense.weight": torch.empty(width, width).normal_(
                0, network.initializer_range, generator=generator
            ),
            f"{_HEAD}context_dense.bias": torch.zeros(width),
            f"{_HEAD}context_layer_norm.weight": torch.ones(width),
            f"{_HEAD}context_layer_norm.bias": torch.zeros(width),
        }

    def fill_buffers(self, built: Any) -> None:
        """The numbers of the positions."""
        built.to_empty(device="cpu")
        embeddings = built.bert.embeddings
        embeddings.position_ids = torch.arange(built.config.max_position_embeddings)[None]
        embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)

    def masked_logits(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """The logits of the last layer's states."""
        return model.cls(states)

    def blocks(self, network: Bert) -> "Blocks":
        """BERT's: norms after additions, which the last layer ends with, and biases."""
        from llmrecipe.engines.nanotron.networks.encoder_blocks import BertEmbeddings, Blocks, PostNormLayer

        return Blocks(
            embeddings=BertEmbeddings,
            layer=PostNormLayer,
            norm_eps=network.layer_norm_eps,
            has_biases=True,
            has_final_norm=False,
        )


ARCHITECTURE = BertArchitecture()


def _layer(index: int) -> str:
    return f"model.encoder.{index}.pp_block."
