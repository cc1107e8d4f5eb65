"""Train a language model as code: the words of the recipe language.

Words of which there are many are in rooms, found by their dot: `clean.ExactDedup()`, `schedule.Cosine()`.
"""

from llmrecipe.recipe import (
    adapter,
    augment,
    clean,
    distil,
    gate,
    masking,
    measure,
    optimizer,
    place,
    prune,
    schedule,
    scheme,
    source,
    task,
)
from llmrecipe.recipe.corpus import Corpus, Mixture, Part
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.fine_tuning import FineTuning
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import PretrainedModel, Quantized, Trained
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.decoder import Llama3RopeScaling
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.mistral import Mistral
from llmrecipe.recipe.networks.modern_bert import ModernBert
from llmrecipe.recipe.networks.network import Ratio
from llmrecipe.recipe.networks.qwen2 import Qwen2
from llmrecipe.recipe.networks.qwen3 import Qwen3
from llmrecipe.recipe.objective import CausalLM, FillInTheMiddle, MaskedLM, MultiMaskLM
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.pruned import Pruned
from llmrecipe.recipe.quantity import Epochs, Fraction, Steps, Tokens
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.release import Release
from llmrecipe.recipe.tokenizer import ByteLevelBPE, PretrainedTokenizer, Unigram, WordPiece
from llmrecipe.recipe.training import Anomalies, Dropout, Training

__all__ = [
    "Anomalies",
    "Bert",
    "ByteLevelBPE",
    "CausalLM",
    "Corpus",
    "Distilled",
    "Dropout",
    "Epochs",
    "FillInTheMiddle",
    "FineTuned",
    "FineTuning",
    "Fraction",
    "Llama",
    "Llama3RopeScaling",
    "Machine",
    "MaskedLM",
    "Mistral",
    "Mixture",
    "ModernBert",
    "MultiMaskLM",
    "Parallelism",
    "Part",
    "PretrainedModel",
    "PretrainedTokenizer",
    "Pruned",
    "Quantized",
    "Qwen2",
    "Qwen3",
    "Ratio",
    "Recipe",
    "Release",
    "Steps",
    "Tokens",
    "Trained",
    "Training",
    "Unigram",
    "WordPiece",
    "adapter",
    "augment",
    "clean",
    "distil",
    "evolve",
    "gate",
    "masking",
    "measure",
    "optimizer",
    "place",
    "prune",
    "schedule",
    "scheme",
    "source",
    "task",
]
