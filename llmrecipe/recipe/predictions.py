"""What a teacher predicts, once for all that learn from it."""

import attrs

from llmrecipe.recipe.distil import Stored
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.kinds import Model, Text
from llmrecipe.recipe.quantity import Steps
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.texts import distillation_text
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.validators import as_in, between


@define("predictions")
class Predictions(Word):
    """What a teacher predicts for the sequences of a run; all students of such a run share it. Made by the planner."""

    teacher: Model
    """The model that predicts."""

    text: Text
    """What it reads."""

    top_k: int = as_in(Stored, "top_k")
    """Tokens that are named for each place."""

    seed: int = as_in(Training, "seed")
    """Decides what is masked, and the order of the sequences."""

    sequences: int = attrs.field(validator=between(0, 10**17))
    """Those of the run, from the first step to the last."""

    validation_sequences: int = as_in(Training, "validation_sequences")
    """Those of the held-out split."""

    @classmethod
    def of(cls, distilled: Distilled) -> "Predictions | None":
        """What a distillation reads in the place of a teacher; None for one that asks the teacher itself.

        Raises:
            ValueError: its text isn't known, or its length isn't in steps, which the checks refuse.
        """
        if distilled.teacher_logits is None:
            return None
        training = distilled.training
        if not isinstance(training.duration, Steps):
            raise ValueError(f"how many sequences {distilled.name} reads isn't known")
        return cls(
            teacher=distilled.teacher,
            text=distillation_text(distilled),
            top_k=distilled.teacher_logits.top_k,
            seed=training.seed,
            sequences=training.duration.count * training.global_batch_size,
            validation_sequences=training.validation_sequences,
        )

    @property
    def name(self) -> str:
        """Its name in stage names and folders: `base-stdlib-top64-seed0-1600-256`."""
        run = f"top{self.top_k}-seed{self.seed}-{self.sequences}-{self.validation_sequences}"
        return f"{self.teacher.name}-{self.text.name}-{run}"
