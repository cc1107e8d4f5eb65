"""What the launching process tells the ranks of a distillation, as one JSON file."""

from pathlib import Path

from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.training import Training
from llmrecipe.sections import DistilSection


@define("distillation")
class Job(Word):
    """One launch of a distillation, new or resumed."""

    section: DistilSection
    """The run; its length is settled, never in epochs."""

    network: Network
    """What is trained; the section's, or that of the student."""

    objective: Objective
    """What both predict."""

    machine: Machine
    """What it runs on; `device` is settled, never `auto`."""

    name: str
    """The stage's name, for progress."""

    modules: tuple[str, ...]
    """Modules of the user's own that define words of the run."""

    tokens: tuple[str, ...]
    """Folders of the tokens artifacts, one for each corpus."""

    shares: tuple[float, ...]
    """Sequences drawn from each corpus, relative to the others."""

    student: str | None
    """Folder of the model that is trained; None draws the first weights of the network."""

    teacher: str
    """Folder of the model that is imitated."""

    predictions: str | None
    """Folder of what the teacher predicts; None asks the teacher itself."""

    vocab_size: int
    """Tokens of the tokenizer; what the models' output layers have more is no part of their predictions."""

    end_of_text_id: int
    """The token that ends a document."""

    keep_zeros: bool
    """Whether weights of linear layers that are zero at the start stay so."""

    state: str
    """Folder of the resumable state."""

    events: str
    """Folder of the event files that `machine.events` asks for."""

    resumed: int = 0
    """The step whose checkpoint the run goes on from; 0 is the start."""

    @property
    def training(self) -> Training:
        """How long the student is trained, and how."""
        return self.section.training

    @property
    def parallelism(self) -> Parallelism:
        """How the run is spread over ranks."""
        return self.section.parallelism

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return self.objective.sequence_length

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.training.num_steps(self.sequence_length)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that both read in a step, over all ranks."""
        return self.training.global_batch_size * self.sequence_length

    def validates(self, step: int) -> bool:
        """Whether the loss on the held-out split is measured after a step."""
        return step % self.training.validation_interval == 0 or step == self.num_steps

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after a step."""
        return step % self.machine.checkpoint_interval == 0 or step == self.num_steps

    def open_tokens(self, split: str) -> TokenMixture:
        """A split of the corpora, mixed in their shares."""
        return TokenMixture.open([Path(directory) for directory in self.tokens], split, self.shares)
