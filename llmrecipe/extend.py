"""What a module of the user's own needs to define words: cleaners, measures, models and the stages that make them."""

from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.recipe.cleaning import CustomCleaner
from llmrecipe.recipe.custom_measure import CustomMeasure, CustomScores, MeasuredModel
from llmrecipe.recipe.kinds import Model, Objective, Text, Tokenizer
from llmrecipe.recipe.model import Derived
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import UNWRITTEN, define
from llmrecipe.sections import Section

__all__ = [
    "UNWRITTEN",
    "CustomCleaner",
    "CustomMeasure",
    "CustomScores",
    "Decoder",
    "Derived",
    "Draft",
    "MeasuredModel",
    "Model",
    "Network",
    "Objective",
    "Products",
    "Section",
    "Text",
    "Tokenizer",
    "define",
    "plans",
]
