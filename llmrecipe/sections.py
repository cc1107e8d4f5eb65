"""What a stage reads from `params/`: one class for each kind of stage, holding exactly what changes its output.

The planner writes these sections and the stages read them; this is the only place where the two meet. Facts of what a
stage reads, such as a model's objective, are on the cards of its inputs (`cards.py`) and never copied here. `revision`
is raised when a stage's code changes what it produces, so a refactoring never reruns a stage and a correction
always does.
"""

from typing import ClassVar, Literal

import attrs

from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.distil import HiddenStates, Stored
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.fine_tuning import FineTuning
from llmrecipe.recipe.kinds import (
    Augmenter,
    Cleaner,
    Divergence,
    Gate,
    Objective,
    Pruning,
    Scheme,
    Source,
    Task,
    Tokenizer,
)
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.model import PretrainedModel, Quantized
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.predictions import Predictions
from llmrecipe.recipe.pruned import Pruned
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.release import Release
from llmrecipe.recipe.schema import Word, define, kind, members
from llmrecipe.recipe.scheme import Override
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.validators import all_greater_than, as_in, not_empty


@kind
class Section(Word):
    """What a stage reads from `params/`."""

    module: ClassVar[str] = ""
    """The module whose `run(context)` does the stage's work; empty for the one in `llmrecipe.stages` named after it."""

    reads_only_cards: ClassVar[bool] = False
    """Whether the stage reads of its artifacts what they are and how large, and nothing of their contents."""


@define("prepare")
class PrepareSection(Section):
    """Raw text to clean documents, split into training and held-out."""

    source: Source
    clean: tuple[Cleaner, ...]
    heldout: Fraction | Source = as_in(Corpus, "heldout")
    shards: int = as_in(Corpus, "shards")
    revision: int = 5


@define("augment")
class AugmentSection(Section):
    """Documents and what is made of the training ones, together."""

    augment: tuple[Augmenter, ...] = as_in(Corpus, "augment")
    revision: int = 3


@define("tokenizer")
class TokenizerSection(Section):
    """Documents to a tokenizer."""

    tokenizer: Tokenizer
    revision: int = 5


@define("tokenize")
class TokenizeSection(Section):
    """Documents to token files."""

    revision: int = 5


@define("mix")
class MixSection(Section):
    """Token files of several corpora to a mixture of them."""

    reads_only_cards: ClassVar[bool] = True

    shares: tuple[float, ...] = attrs.field(validator=[not_empty, all_greater_than(0, 1e9)])
    """Sequences drawn from each corpus relative to the others, in the order in which the inputs name them."""

    revision: int = 1


@define("import")
class ImportSection(Section):
    """Somebody's model to one that stages can read."""

    # A stage's own name is a keyword of Python.
    module: ClassVar[str] = "llmrecipe.stages.import_model"

    model: PretrainedModel
    """Where it is; its network is that of the time when this was planned, None if it wasn't there yet."""

    revision: int = 1


@define("train")
class TrainSection(Section):
    """Token files to trained weights."""

    network: Network | None
    """Where the run starts from first weights; None where it starts from those of an input."""

    objective: Objective
    training: Training
    parallelism: Parallelism
    resize_embeddings: bool = False
    """Whether the input that it starts from gets embeddings for another tokenizer, the `tokenizer` input."""

    revision: int = 6


@define("export")
class ExportSection(Section):
    """Trained weights to a directory in the transformers format."""

    revision: int = 3


@define("hessians")
class HessiansSection(Section):
    """A model and a text to what quantization needs to know of both."""

    calibration_samples: int = as_in(Quantized, "calibration_samples")
    seed: int = as_in(Quantized, "seed")
    revision: int = 1


@define("quantize")
class QuantizeSection(Section):
    """A transformers model to a smaller one."""

    scheme: Scheme | None
    overrides: tuple[Override, ...] = ()
    kv_cache: Literal["float8"] | None = None
    rotate: bool = False
    calibration_samples: int = as_in(Quantized, "calibration_samples")
    seed: int = as_in(Quantized, "seed")
    revision: int = 9


@define("prune")
class PruneSection(Section):
    """A transformers model to one of which a part is left out."""

    method: Pruning
    calibration_samples: int = as_in(Pruned, "calibration_samples")
    seed: int = as_in(Pruned, "seed")
    revision: int = 1


@define("predict")
class PredictSection(Section):
    """A teacher's predictions, once for all students of a run."""

    top_k: int = as_in(Predictions, "top_k")
    sequences: int = as_in(Predictions, "sequences")
    seed: int = as_in(Predictions, "seed")
    validation_sequences: int = as_in(Predictions, "validation_sequences")
    revision: int = 1


@define("distil")
class DistilSection(Section):
    """A teacher's predictions to a student's weights."""

    network: Network | None
    """What is trained, from first weights; None where the student is a model, an input."""

    loss: Divergence
    hard_loss_weight: float = as_in(Distilled, "hard_loss_weight")
    training: Training
    parallelism: Parallelism
    hidden_states: HiddenStates | None = None
    teacher_logits: Stored | None = None
    revision: int = 1


@define("examples")
class ExamplesSection(Section):
    """Files of examples to checked ones, in three splits."""

    task: Task
    revision: int = 1


@define("finetune")
class FineTuneSection(Section):
    """A model and the examples of a task to one that does it."""

    task: Task
    """The task, on the examples among the inputs."""

    training: FineTuning
    parallelism: Parallelism
    revision: int = 1


@define("measure")
class MeasureSection(Section):
    """A model to numbers."""

    measure: Measure
    revision: int = 4


FRONTIER = "frontier.svg"
"""The picture that a comparison leaves."""


@define("report")
class ReportSection(Section):
    """Measurements to a comparison."""

    reads_only_cards: ClassVar[bool] = True

    revision: int = 3


@define("release")
class ReleaseSection(Section):
    """The first of some models that passes all gates."""

    candidates: tuple[str, ...] = attrs.field(validator=not_empty)
    """Names of the models, the most wanted first."""

    reference: str
    """The name of the model that all are compared with."""

    gates: tuple[Gate, ...] = as_in(Release, "gates")
    revision: int = 1


def section_of_kind(kind: str) -> type[Section] | None:
    """The class of the sections of a kind of stage (`train`); None if there is no such kind."""
    return members(Section).get(kind)
