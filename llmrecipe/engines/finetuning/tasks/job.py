"""What the launching process tells the ranks of a fine-tuning, as one JSON file."""

from pathlib import Path
from typing import Any

from llmrecipe.cards import TaskCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks.heads import work_of
from llmrecipe.engines.tasks.work import Work
from llmrecipe.recipe.fine_tuning import FineTuning
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.training import Training
from llmrecipe.sections import FineTuneSection


@define("fine_tuning_job")
class Job(Word):
    """One launch of a fine-tuning, new or resumed."""

    section: FineTuneSection
    """The run."""

    task: TaskCard
    """What is learned."""

    machine: Machine
    """What it runs on; `device` is settled, never `auto`."""

    name: str
    """The stage's name, for progress."""

    modules: tuple[str, ...]
    """Modules of the user's own that define words of the run."""

    start: str
    """Folder of the model that it starts from."""

    examples: str
    """Folder of the examples."""

    sequences: int
    """Sequences that the training examples are."""

    tokens: int
    """Tokens that these have."""

    keep_zeros: bool
    """Whether weights of linear layers that are zero at the start stay so."""

    state: str
    """Folder of the resumable state."""

    events: str
    """Folder of the event files that `machine.events` asks for."""

    resumed: int = 0
    """The step whose checkpoint the run goes on from; 0 is the start."""

    @property
    def tuning(self) -> FineTuning:
        """How it is learned."""
        return self.section.training

    @property
    def training(self) -> Training:
        """How long the run is, in steps, and how weights learn."""
        return self.tuning.of(self.sequences)

    @property
    def parallelism(self) -> Parallelism:
        """How the run is spread over ranks."""
        return self.section.parallelism

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence at most."""
        return self.section.task.max_length

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.training.num_steps(self.sequence_length)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that are read in a step, over all ranks, in the mean."""
        return max(self.tokens // self.training.validation_interval, 1)

    def validates(self, step: int) -> bool:
        """Whether the model is measured on the validation examples after a step: at the end of each epoch."""
        return step % self.training.validation_interval == 0 or step == self.num_steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after a step: after each epoch too, where the run may also end early."""
        return step % self.machine.checkpoint_interval == 0 or self.validates(step)

    def work(self) -> Work[Any]:
        """The task, for this model."""
        return work_of(self.task, folders.load_tokenizer(Path(self.start)))
