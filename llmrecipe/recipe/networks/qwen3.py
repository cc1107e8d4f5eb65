"""Qwen3."""

from collections.abc import Mapping
from typing import Any, ClassVar

from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.networks.qwen2 import Qwen2, refuse_windows
from llmrecipe.recipe.schema import define


@define("qwen3")
class Qwen3(Decoder):
    """Llama with an RMSNorm of each head's query and key (Yang et al. 2025); its heads are usually 128 wide."""

    architectures: ClassVar[Mapping[str, bool]] = {"Qwen3ForCausalLM": True, "Qwen3Model": False}
    has_query_key_norms: ClassVar[bool] = True
    config_defaults: ClassVar[Mapping[str, int]] = {**Qwen2.config_defaults, "head_dim": 128}

    @classmethod
    def _own_fields(cls, config: Config) -> dict[str, Any]:
        refuse_windows(config)
        return {}
