"""Llama."""

from collections.abc import Mapping
from typing import ClassVar

from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.schema import define


@define("llama")
class Llama(Decoder):
    """A decoder (Touvron et al. 2023): RMSNorm, rotary positions, SwiGLU and grouped-query attention."""

    architectures: ClassVar[Mapping[str, bool]] = {"LlamaForCausalLM": True, "LlamaModel": False}
