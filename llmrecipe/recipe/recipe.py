"""The whole recipe."""

import attrs

from llmrecipe.recipe.compression import Compression
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.evaluation import Measure, Perplexity
from llmrecipe.recipe.model import Model
from llmrecipe.recipe.objective import Objective
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.recipe.schema import define, not_empty
from llmrecipe.recipe.tokenizer import Tokenizer
from llmrecipe.recipe.training import Training


@define("recipe")
class Recipe:
    """Everything it takes to get from raw text to a compressed, evaluated model."""

    name: str = attrs.field(validator=not_empty)
    """Its name in stage names and folders: letters, digits, `_` and `-`."""

    corpus: Corpus
    """The text."""

    tokenizer: Tokenizer
    """Text to tokens."""

    model: Model
    """The network."""

    objective: Objective
    """What it learns."""

    training: Training
    """How long and how it is trained."""

    parallelism: Parallelism = Parallelism()
    """How the training is spread over ranks."""

    compression: tuple[Compression, ...] = ()
    """How the trained model is made smaller, in order; empty leaves it dense."""

    evaluation: tuple[Measure, ...] = (Perplexity(),)
    """What is measured on every model."""

    runtime: Runtime = Runtime()
    """How and where it runs."""
