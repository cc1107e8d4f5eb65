"""What a stage reads from `params.yaml`: one class for each kind of stage, holding exactly what changes its output.

The planner writes these sections and the stages read them; this is the only place where the two meet. `revision`
is raised when a stage's code changes what it produces, so that a refactoring never reruns a training and a
correction always does.
"""

from typing import Any

import attrs

from llmrecipe.recipe.augmentation import Augmenter
from llmrecipe.recipe.cleaning import Cleaner
from llmrecipe.recipe.compression import Quantize, Scheme
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.evaluation import Measure
from llmrecipe.recipe.model import Model
from llmrecipe.recipe.objective import CausalLM, Objective
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import all_greater_than, define, greater_than, not_empty
from llmrecipe.recipe.source import Source
from llmrecipe.recipe.tokenizer import Tokenizer
from llmrecipe.recipe.training import Training


def _as_in(cls: type, name: str) -> Any:
    """A field that obeys the rules of the field `name` of a recipe's class, and has no default."""
    return attrs.field(validator=getattr(attrs.fields(cls), name).validator)


def _weights() -> Any:
    """The weights of the corpora, in the order in which the stage's inputs name them."""
    return attrs.field(default=(1.0,), validator=[not_empty, all_greater_than(0)])


@define("prepare")
class PrepareSection:
    """Raw text to clean documents, split into training and held-out."""

    source: Source
    clean: tuple[Cleaner, ...]
    heldout_fraction: float = _as_in(Corpus, "heldout_fraction")
    shards: int = _as_in(Corpus, "shards")
    revision: int = 3


@define("augment")
class AugmentSection:
    """Documents and what is made of the training ones, together."""

    augment: tuple[Augmenter, ...] = _as_in(Corpus, "augment")
    revision: int = 1


@define("tokenizer")
class TokenizerSection:
    """Documents to a tokenizer."""

    tokenizer: Tokenizer
    revision: int = 1


@define("tokenize")
class TokenizeSection:
    """Documents to token files."""

    revision: int = 3


@define("pretrain")
class PretrainSection:
    """Token files to trained weights."""

    model: Model
    objective: Objective
    training: Training
    parallelism: Parallelism
    weights: tuple[float, ...] = _weights()
    revision: int = 3


@define("export")
class ExportSection:
    """Trained weights to a directory in the transformers format."""

    logits_tolerance: float = attrs.field(default=1e-4, validator=greater_than(0))
    """Largest difference to the training engine's own logits, in float32, that is accepted."""

    revision: int = 1


@define("quantize")
class QuantizeSection:
    """A transformers model to a smaller one."""

    scheme: Scheme
    calibration_samples: int = _as_in(Quantize, "calibration_samples")
    sequence_length: int = _as_in(CausalLM, "sequence_length")
    seed: int = _as_in(Quantize, "seed")
    weights: tuple[float, ...] = _weights()
    revision: int = 2


@define("evaluate")
class EvaluateSection:
    """Models to numbers and samples."""

    measures: tuple[Measure, ...]
    objective: Objective
    weights: tuple[float, ...] = _weights()
    revision: int = 3


Section = (
    PrepareSection
    | AugmentSection
    | TokenizerSection
    | TokenizeSection
    | PretrainSection
    | ExportSection
    | QuantizeSection
    | EvaluateSection
)

SECTION_OF_KIND: dict[str, type[Section]] = {section.tag: section for section in Section.__args__}
"""Kind of stage (`pretrain`) to the class of its section; the kind is also the stage's module in `llmrecipe.stages`."""
