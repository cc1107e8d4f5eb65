"""Which module knows the configuration and the weights of a model in both libraries."""

from types import ModuleType

from llmrecipe.engines.nanotron import bert, llama
from llmrecipe.recipe.model import Bert, Llama, Model

_MODULES: dict[type[Model], ModuleType] = {Llama: llama, Bert: bert}


def architecture_of(model: Model) -> ModuleType:
    """`llama` or `bert`, which have the same functions."""
    return _MODULES[type(model)]
