"""What the launching process tells the ranks of a run, as one JSON file."""

from collections.abc import Iterable
from pathlib import Path

import attrs

from llmrecipe.engines.models.architecture import RunOptions
from llmrecipe.engines.nanotron.port.linear import Library
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.engines.runs.schedule import steps_before_decay
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.schema import Word, define
from llmrecipe.sections import TrainSection


@define("job")
class Job(Word):
    """One launch of a run, new or resumed."""

    section: TrainSection
    """The run; its length is settled, never in epochs."""

    network: Network
    """What is trained; the section's, or that of the model that the run starts from."""

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

    vocab_size: int
    """Tokens of the tokenizer."""

    rows: int
    """Rows of the embedding, before padding; a model that the run starts from may have more than tokens."""

    end_of_text_id: int
    """The token that ends a document."""

    start: str | None
    """Folder of the model whose weights are the first ones; None draws them."""

    tokenizer: str | None
    """Folder of the tokenizer that the start gets embeddings for; None if it has those of this one."""

    state: str
    """Folder of the resumable state."""

    events: str
    """Folder of the event files that `machine.events` asks for."""

    resume: str | None
    """Folder of the checkpoint to resume from; None starts from the first weights."""

    compiled: bool
    """Whether its layers are compiled."""

    math_library: Library | None
    """What multiplies in its linear layers, on every rank alike; None leaves it to torch, as on a GPU."""

    @property
    def parallelism(self) -> Parallelism:
        """How the run is spread over ranks."""
        return self.section.parallelism

    @property
    def sequence_length(self) -> int:
        """Tokens of a training sequence."""
        return self.section.objective.sequence_length

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.section.training.num_steps(self.sequence_length)

    def validates(self, step: int) -> bool:
        """Whether the loss on the held-out split is measured after a step."""
        return step % self.section.training.validation_interval == 0 or step == self.num_steps

    def keeps(self, step: int, rows: Iterable[Row]) -> bool:
        """Whether the checkpoint of a step stays, however many newer ones there are; `rows` are the log so far.

        It is a part of the result, or what a longer run by the same schedule needs to go on.
        """
        training, stable = self.section.training, self.steps_before_decay
        return training.is_kept(step) or step == stable or (training.select == "best" and step in self._best(rows))

    @property
    def steps_before_decay(self) -> int:
        """Steps before the learning rate falls by `WarmupStableDecay`; all of those of another schedule."""
        return steps_before_decay(self.section.training, self.sequence_length)

    def _best(self, rows: Iterable[Row]) -> set[int | None]:
        """The best step so far, and those that were the best where a longer run goes on, which may find no better."""
        measured = [row for row in rows if "validation_loss" in row]
        # A longer run doesn't measure after what is the last step of this one alone.
        shared = [row for row in measured if row["step"] % self.section.training.validation_interval == 0]
        stable = [row for row in shared if row["step"] <= self.steps_before_decay]
        return {metrics.best_step(each) for each in (measured, shared, stable)}

    @property
    def options(self) -> RunOptions:
        """What the run asks of the network."""
        objective, training = self.section.objective, self.section.training
        return RunOptions(
            vocab_size=self.rows,
            device=self.machine.device,
            seed=training.seed,
            dropout=training.dropout,
            z_loss=training.z_loss,
            compiled=self.compiled,
            recompute=self.section.parallelism.recompute_activations,
            restart_at_documents=objective.restart_at_documents,
            predicts_context=objective.context_weight > 0,
            # Our readers fill every sequence; those of others may not.
            pads=bool(objective.module),
        )

    def open_tokens(self, split: str) -> TokenMixture:
        """A split of the corpora, mixed in their shares."""
        return TokenMixture.open([Path(directory) for directory in self.tokens], split, self.shares)


@attrs.frozen
class NanotronFolder(StateFolder):
    """Where a run keeps what it needs to resume."""

    @property
    def first_weights(self) -> Path:
        """A nanotron checkpoint of the weights that the run starts from."""
        return self.root / "first"

    @property
    def nanotron_config(self) -> Path:
        """The configuration that nanotron's trainer reads."""
        return self.root / "nanotron.yaml"
