"""Models that learn to predict what another one does."""

import attrs

from llmrecipe.recipe.distil import ForwardKL, HiddenStates, Stored
from llmrecipe.recipe.kinds import Divergence, Model, Objective, Task, Text, Tokenizer
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import UNWRITTEN, define
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.validators import below, not_empty


@define("distilled")
class Distilled(Model):
    """A student that is trained to predict what its teacher predicts, by transformers' Trainer.

    What is quantized stays so: the student learns through its own rounding, which gradients pass unchanged
    (straight through, Bengio et al. 2013), and the scales of its weights learn as well. What is pruned stays so.
    Nothing is dropped, whatever the student was published with.
    """

    name: str = attrs.field(validator=not_empty, metadata=UNWRITTEN)
    """Its name in stage names and folders: letters, digits, `_` and `-`. All models share one namespace."""

    student: Network | Model
    """A network, whose first weights are drawn, or a model that goes on from its own: pruned, quantized, or smaller."""

    teacher: Model
    """The model that is imitated. Its tokenizer has to be the student's."""

    text: Text | None = attrs.field(default=None, metadata=UNWRITTEN)
    """What both read; None for the text that the student was trained on, or else the teacher."""

    training: Training
    """How long the student is trained, and how."""

    loss: Divergence = ForwardKL()
    """What is made small: how far the student's predictions are from the teacher's."""

    hard_loss_weight: float = attrs.field(default=0.0, validator=below(1))
    """Share of the cross-entropy with the text itself in the loss. With any, the student may come to know the text
    better than its teacher does, and how much it recovers of that no longer says how true it is to it."""

    hidden_states: HiddenStates | None = None
    """How much more it is to be like its teacher within; None compares nothing but predictions."""

    teacher_logits: Stored | None = None
    """How the teacher's predictions are stored, to be computed once; None computes them as the student learns."""

    parallelism: Parallelism = Parallelism()
    """How the run is spread over ranks: replicas alone (`data`)."""

    @property
    def is_rounded(self) -> bool:
        """Whether its weights are rounded to few values: if the student's are."""
        return isinstance(self.student, Model) and self.student.is_rounded

    @property
    def is_bfloat16(self) -> bool:
        """Whether the student's formats ask for it."""
        return isinstance(self.student, Model) and self.student.is_bfloat16

    @property
    def is_sparse(self) -> bool:
        """Whether some of its weights have to stay zero: if those of the student have."""
        return isinstance(self.student, Model) and self.student.is_sparse

    @property
    def task(self) -> Task | None:
        """What the student, or the teacher of a network, was taught, if that is to predict text."""
        task = self.parents[0].task
        return task if task is not None and task.keeps_text else None

    @property
    def parents(self) -> tuple[Model, ...]:
        """The student, if it is a model, and the teacher."""
        return (self.student, self.teacher) if isinstance(self.student, Model) else (self.teacher,)

    @property
    def network(self) -> Network:
        """Its shape."""
        return self.student.network if isinstance(self.student, Model) else self.student

    @property
    def objective(self) -> Objective:
        """What the student was trained to predict; a network predicts what its teacher does."""
        return self.parents[0].objective

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer whose tokens it reads: the student's; a network reads its teacher's."""
        return self.parents[0].vocabulary

    @property
    def training_text(self) -> Text | None:
        """What it learns from; None if that isn't said, and neither student nor teacher was trained here."""
        known = (parent.training_text for parent in self.parents)
        return self.text or next((text for text in known if text is not None), None)
