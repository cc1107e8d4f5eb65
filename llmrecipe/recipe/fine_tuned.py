"""Models that learn to do something."""

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.fine_tuning import FineTuning
from llmrecipe.recipe.kinds import Model, Objective, Task, Text, Tokenizer
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import UNWRITTEN, define
from llmrecipe.recipe.validators import not_empty


@define("fine_tuned")
class FineTuned(Model):
    """A model that learns a task from examples, by transformers' Trainer: all weights or an adapter, and a head.

    What was pruned stays so.
    """

    name: str = attrs.field(validator=not_empty, metadata=UNWRITTEN)
    """Its name in stage names and folders: letters, digits, `_` and `-`. All models share one namespace."""

    start: Model
    """The model that it starts from. Of one that has a task already, all but the head is taken, and that too
    if both predict text."""

    task: Task
    """What it learns to do, and the examples of that."""

    training: FineTuning = FineTuning()
    """How long it learns, and how."""

    parallelism: Parallelism = Parallelism(micro_batch_size=8)
    """How the run is spread over ranks: replicas alone (`data`)."""

    @property
    def is_sparse(self) -> bool:
        """Whether some of its weights have to stay zero: if those of its start have."""
        return self.start.is_sparse

    @property
    def parents(self) -> tuple[Model, ...]:
        """The model that it starts from."""
        return (self.start,)

    @property
    def network(self) -> Network:
        """Its shape, but for the head."""
        network = self.start.network
        types = self.task.token_types
        return network if types is None else evolve(network, type_vocab_size=types)

    @property
    def objective(self) -> Objective:
        """What its start was trained to predict."""
        return self.start.objective

    @property
    def vocabulary(self) -> Tokenizer:
        """The tokenizer whose tokens it reads: its start's."""
        return self.start.vocabulary

    @property
    def training_text(self) -> Text | None:
        """What its start was trained on."""
        return self.start.training_text
