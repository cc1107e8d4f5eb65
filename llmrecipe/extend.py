"""What a module of your own builds on: it defines words next to the recipes, and stages that read them.

from llmrecipe.extend import CustomCleaner, define

@define("shout")
class Shout(CustomCleaner):
    def clean(self, text: str) -> str | None:
        return text.upper()
"""

from llmrecipe.recipe.cleaning import CustomCleaner
from llmrecipe.recipe.kinds import (
    Augmenter,
    Cleaner,
    Decoding,
    Masking,
    Model,
    Objective,
    Optimizer,
    Place,
    Rounding,
    Schedule,
    Scheme,
    Source,
    Text,
    Tokenizer,
)
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.network import Network
from llmrecipe.recipe.schema import Word, define
from llmrecipe.sections import Section
from llmrecipe.stages.runner import StageContext

__all__ = [
    "Augmenter",
    "Cleaner",
    "CustomCleaner",
    "Decoding",
    "Masking",
    "Measure",
    "Model",
    "Network",
    "Objective",
    "Optimizer",
    "Place",
    "Rounding",
    "Schedule",
    "Scheme",
    "Section",
    "Source",
    "StageContext",
    "Text",
    "Tokenizer",
    "Word",
    "define",
]
