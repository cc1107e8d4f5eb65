"""What the families of decoders share: their network in nanotron is its Llama with what that lacks."""

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from llmrecipe.engines.models.architecture import Architecture, RunOptions
from llmrecipe.engines.models.llama.weights import EMBEDDING, OUTPUT
from llmrecipe.recipe.networks.decoder import Decoder

if TYPE_CHECKING:
    from nanotron.models import NanotronModel

D = TypeVar("D", bound=Decoder)


class DecoderArchitecture(Architecture[D]):
    """A family of decoders like Llama."""

    tied: Mapping[str, str] = {OUTPUT: EMBEDDING}

    def nanotron_config(self, network: D, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
        """The `model_config` of a nanotron configuration: a Llama's; what that lacks is in the network alone.

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

    def nanotron_network(self, network: D, options: RunOptions) -> "Callable[..., NanotronModel]":
        """nanotron's Llama with what it lacks."""
        from llmrecipe.engines.nanotron.networks.decoder import DecoderNetwork

        return functools.partial(DecoderNetwork, network=network, options=options)

    def fill_buffers(self, built: Any) -> None:
        """The frequencies of its positions."""
        built.model.rotary_emb = type(built.model.rotary_emb)(built.config)

    def logits(self, built: "NanotronModel", input_ids: torch.Tensor) -> torch.Tensor:
        """float32 `[batch, length, padded vocabulary]` of a network on one rank, from `[batch, length]`."""
        everywhere = torch.ones_like(input_ids, dtype=torch.bool)
        return built.model.lm_head.pp_block.logits(built.states(input_ids, everywhere)).transpose(0, 1)
