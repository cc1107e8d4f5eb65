"""Qwen2."""

from collections.abc import Mapping
from typing import Any, ClassVar

from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.schema import define


@define("qwen2")
class Qwen2(Decoder):
    """Llama with biases on queries, keys and values (Yang et al. 2024); Qwen2.5 as well."""

    architectures: ClassVar[Mapping[str, bool]] = {"Qwen2ForCausalLM": True, "Qwen2Model": False}
    has_query_key_value_biases: ClassVar[bool] = True
    config_defaults: ClassVar[Mapping[str, int]] = {"max_position_embeddings": 32_768, "num_key_value_heads": 32}

    @classmethod
    def _own_fields(cls, config: Config) -> dict[str, Any]:
        refuse_windows(config)
        return {}


def refuse_windows(config: Config) -> None:
    """A fault if some of Qwen's layers read a window only; its other keys of windows change nothing then."""
    if config.flag("use_sliding_window", False):
        config.fault(
            "use_sliding_window",
            "= True: all layers read the whole sequence; set it to false if sequences stay within sliding_window = "
            f"{config.get('sliding_window', 4096)}",
        )
    types = config.layer_types(config.integer("num_hidden_layers")) or []
    others = [kind for kind in types if kind != "full_attention"]
    if others:
        config.fault("layer_types", f"= {others!r}: all layers read the whole sequence")
    config.without("sliding_window")
    config.without("max_window_layers")
