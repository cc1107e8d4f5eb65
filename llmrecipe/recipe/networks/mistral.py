"""Mistral."""

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.schema import define
from llmrecipe.recipe.validators import between


@define("mistral")
class Mistral(Decoder):
    """Llama with attention that can be limited to a sliding window (Jiang et al. 2023)."""

    architectures: ClassVar[Mapping[str, bool]] = {"MistralForCausalLM": True, "MistralModel": False}
    config_defaults: ClassVar[Mapping[str, int]] = {"max_position_embeddings": 131_072, "num_key_value_heads": 8}

    sliding_window: int | None = attrs.field(default=None, validator=between(1, 10**9))
    """Tokens that each token reads, itself included; None for all before it."""

    @property
    def window(self) -> int | None:
        """How many tokens each token reads, itself included; None for all before it."""
        return self.sliding_window

    @classmethod
    def _own_fields(cls, config: Config) -> dict[str, Any]:
        missing = 4096
        is_limited = config.get("sliding_window", missing=missing) is not None
        return {"sliding_window": config.integer("sliding_window", missing=missing) if is_limited else None}
