"""What the launching process tells the ranks of a training, as one JSON file."""

import json
from pathlib import Path

import attrs

from llmrecipe import artifacts, codec
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.objective import MultiMaskLM
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.recipe.schema import define
from llmrecipe.sections import PretrainSection


@define("job")
class Job:
    """One launch of a training, new or continued."""

    section: PretrainSection
    """The training."""

    runtime: Runtime
    """How it runs; `device` is settled, never `auto`."""

    name: str
    """The stage's name, for progress."""

    tokens: tuple[str, ...]
    """Folders of the tokens artifacts, one for each corpus."""

    vocab_size: int
    """Tokens of the tokenizer."""

    end_of_text_id: int
    """The token that ends a document."""

    state: str
    """Folder of the resumable state."""

    resume: str | None
    """Folder of the checkpoint to continue from; None starts from the initial weights."""

    @property
    def dtype(self) -> str:
        """Type of weights and activations, by torch's name."""
        precision = self.section.training.precision
        if precision == "by_device":
            return "float32" if self.runtime.device == "cpu" else "bfloat16"
        return precision

    @property
    def sequence_length(self) -> int:
        """Tokens of a training sequence."""
        return self.section.objective.sequence_length

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.section.training.num_steps(self.sequence_length)

    @property
    def predicts_context(self) -> bool:
        """Whether the tokens before masked spans are predicted as well."""
        objective = self.section.objective
        return isinstance(objective, MultiMaskLM) and objective.context_weight > 0

    def open_tokens(self, split: str) -> TokenMixture:
        """A split of the corpora, mixed as the section says."""
        return TokenMixture.open([Path(directory) for directory in self.tokens], split, self.section.weights)

    def write(self, path: Path) -> None:
        """Write the job for the ranks to read."""
        artifacts.write_json(path, codec.unstructure(self))

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read a job that `write` wrote."""
        return codec.structure(json.loads(path.read_text(encoding="utf-8")), cls, "job")


@attrs.frozen
class StateFolder:
    """Where a training keeps what it needs to continue."""

    root: Path
    """The folder."""

    @property
    def initial_weights(self) -> Path:
        """A nanotron checkpoint of the untrained weights."""
        return self.root / "initial"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints by step; each is whole, since it is renamed into place."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / str(step)

    @property
    def metrics(self) -> Path:
        """JSON lines, one a step, that depend on the recipe alone."""
        return self.root / "metrics.jsonl"

    @property
    def timings(self) -> Path:
        """JSON lines, one a step, of what this machine took."""
        return self.root / "timings.jsonl"

    @property
    def measurements(self) -> Path:
        """What the launch that finished the training measured of its ranks: communication and memory."""
        return self.root / "measurements.json"

    @property
    def nanotron_config(self) -> Path:
        """The configuration that nanotron's trainer reads."""
        return self.root / "nanotron.yaml"

    @property
    def job(self) -> Path:
        """The job that the ranks read."""
        return self.root / "job.json"
