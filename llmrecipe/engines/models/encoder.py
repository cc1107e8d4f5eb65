"""What the families of encoders share: their network in nanotron is one, of blocks of their own."""

import abc
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from llmrecipe.engines.models.architecture import Architecture, RunOptions
from llmrecipe.recipe.networks.network import Network

if TYPE_CHECKING:
    from nanotron.models import NanotronModel

    from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks


E = TypeVar("E", bound=Network)


class EncoderArchitecture(Architecture[E]):
    """A family of encoders with a masked-token head whose output layer shares the token embedding's weights."""

    @abc.abstractmethod
    def blocks(self, network: E) -> "Blocks":
        """Its blocks; called only where nanotron can be imported."""

    def nanotron_config(self, network: E, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
        """The `model_config` of a nanotron configuration.

        nanotron knows decoders only: this is a Llama's, of which its trainer reads the sizes; the network itself is
        built from the recipe.
        """
        return {
            "is_llama_config": True,
            "bos_token_id": end_of_text_id,
            "eos_token_id": end_of_text_id,
            "pad_token_id": None,
            "hidden_size": network.hidden_size,
            "intermediate_size": network.feed_forward_size,
            "max_position_embeddings": network.max_position_embeddings,
            "num_attention_heads": network.num_attention_heads,
            "num_hidden_layers": network.num_layers,
            "num_key_value_heads": network.num_attention_heads,
            "tie_word_embeddings": True,
            "vocab_size": network.padded_vocab_size(vocab_size),
        }

    def nanotron_network(self, network: E, options: RunOptions) -> "Callable[..., NanotronModel]":
        """An encoder of nanotron's parts."""
        from llmrecipe.engines.nanotron.networks.encoder import EncoderNetwork

        return functools.partial(EncoderNetwork, network=network, blocks=self.blocks(network), options=options)

    def logits(self, built: "NanotronModel", input_ids: torch.Tensor) -> torch.Tensor:
        """float32 `[batch, length, padded vocabulary]` of a network on one rank, from `[batch, length]`."""
        batch, length = input_ids.shape
        states = built.model(
            input_ids=input_ids,
            input_mask=torch.ones_like(input_ids, dtype=torch.bool),
            positions=torch.arange(length * batch),
            is_context=torch.zeros(length * batch, dtype=torch.bool),
        )
        return built.model.lm_head.pp_block.logits(states).view(length, batch, -1).transpose(0, 1)
