"""Which module knows the configuration and the weights of a model in both libraries."""

from types import ModuleType

from llmrecipe.engines.models import bert, llama, modern_bert
from llmrecipe.recipe.model import Bert, Llama, Model, ModernBert

_MODULES: dict[type[Model], ModuleType] = {Llama: llama, Bert: bert, ModernBert: modern_bert}


def architecture_of(model: Model) -> ModuleType:
    """`llama`, `bert` or `modern_bert`, which have the same functions; encoders have `initial_context_head` as well."""
    return _MODULES[type(model)]
