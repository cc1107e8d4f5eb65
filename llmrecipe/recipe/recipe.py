"""The whole recipe."""

from collections.abc import Iterator

import attrs

from llmrecipe.recipe.compression import Compression
from llmrecipe.recipe.corpus import Corpus, Mixture
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

    corpus: Corpus | Mixture
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

    def corpora(self) -> Iterator[tuple[str, Corpus]]:
        """Every corpus, with its path in the recipe: `corpus`, or `corpus.parts[0].corpus` in a mixture."""
        if isinstance(self.corpus, Corpus):
            yield "corpus", self.corpus
        else:
            for index, part in enumerate(self.corpus.parts):
                yield f"corpus.parts[{index}].corpus", part.corpus
