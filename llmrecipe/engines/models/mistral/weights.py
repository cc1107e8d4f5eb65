"""Mistral's weights, which are Llama's."""

from llmrecipe.engines.models.llama.weights import weights

__all__ = ["weights"]
