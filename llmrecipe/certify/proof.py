"""The proof that a model is trained exactly: runs of its shrunk form, and how far they are apart."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs

from llmrecipe import artifacts, hardware
from llmrecipe.certify.comparison import (
    EXACT,
    Column,
    Row,
    Tolerance,
    WeightsDifference,
    compare,
    tolerance_of,
    widened,
)
from llmrecipe.certify.layouts import in_words, other_layout
from llmrecipe.certify.run import Run
from llmrecipe.certify.shrink import shrink, shrunk_machine
from llmrecipe.certify.tokens import Tokens
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import Trained


@attrs.frozen(kw_only=True)
class Finding:
    """A run next to the one that went straight through."""

    what: str
    """What was done to it: `killed at step 8 and resumed`."""

    columns: tuple[Column, ...]
    """What was compared."""

    math_library: str | None = None
    """What multiplied in the linear layers; None if that was left to torch."""

    @property
    def failures(self) -> list[Column]:
        """The columns whose difference is not allowed."""
        return [column for column in self.columns if not column.passes]


@attrs.frozen(kw_only=True)
class Proof:
    """The runs to come."""

    model: Trained
    """The shrunk model."""

    other: Trained
    """The same under another layout."""

    tokens: Tokens
    """What they read."""

    machine: Machine
    """What they run on."""

    @classmethod
    def of(cls, model: Trained, steps: int, tokens: Tokens, machine: Machine) -> "Proof":
        """The proof of `model`, a valid one, with runs of `steps` steps.

        They run on the machine's device, but on the CPU if one of them has more ranks than this machine has GPUs.
        """
        small, machine = shrink(model, steps=steps, vocab_size=tokens.vocab_size), shrunk_machine(machine, steps)
        layout = other_layout(small.parallelism, small.network)
        if max(small.parallelism.world_size, layout.world_size) > hardware.num_gpus():
            machine = evolve(machine, device="cpu")
        return cls(model=small, other=evolve(small, parallelism=layout), tokens=tokens, machine=machine)

    @property
    def promises_bits(self) -> bool:
        """Whether an interruption may change no bit: on a CPU always, on GPUs as the machine says."""
        is_on_gpus = self.machine.device == "cuda" or (self.machine.device == "auto" and hardware.num_gpus() > 0)
        return self.machine.deterministic or not is_on_gpus

    def carry_out(self, folder: Path, report: Callable[[str], None]) -> list[Finding]:
        """Train three times below `folder`, or four times if rounding goes far; `report` is told what comes.

        Raises:
            StageError: a run failed, and has said why.
        """
        layout, other = in_words(self.model.parallelism), in_words(self.other.parallelism)
        report(f"run 1 of 3: straight through, {layout}")
        straight = self._run(folder / "straight", self.model)
        rows = straight.train()
        report(f"run 2 of 3: killed and resumed, {layout}")
        killed = self._run(folder / "killed", self.model)
        # Between two checkpoints, so steps are lost and done again.
        interval = self.machine.checkpoint_interval
        step, saved = killed.train_until_killed(interval + (interval + 1) // 2)
        report(f"killed at step {step}; the newest checkpoint is that of step {saved}")
        killed_rows = killed.train()
        report(f"run 3 of 3: under another layout, {other}")
        moved = self._run(folder / "moved", self.other)
        moved_rows = moved.train()
        killed_weights = weights_difference(straight.checkpoint, killed.checkpoint)
        moved_weights = weights_difference(straight.checkpoint, moved.checkpoint)
        rounding = tolerance_of(self.model.training.precision, self.model.training.optimizer)
        resumed = EXACT if self.promises_bits else rounding
        under_other = compare(rows, moved_rows, moved_weights, rounding)
        if not all(column.passes for column in under_other):
            report(f"run 4, since that is more than rounding usually is: other micro-batches, {layout}")
            alone = self._rounded(folder / "rounded", rows, straight.checkpoint, rounding)
            far = ", ".join(f"{each.name} {each.difference:.1e}" for each in alone if each.difference)
            report(f"rounding alone goes so far: {far or 'nowhere'}; it goes less far in fewer --steps")
            rounding = widened(rounding, alone)
            under_other = compare(rows, moved_rows, moved_weights, rounding)
        compared = {
            f"killed at step {step} and resumed": compare(rows, killed_rows, killed_weights, resumed),
            f"under {other}": under_other,
        }
        return [
            Finding(what=what, columns=columns, math_library=straight.math_library)
            for what, columns in compared.items()
        ]

    def _rounded(self, root: Path, rows: list[Row], checkpoint: Path, tolerance: Tolerance) -> tuple[Column, ...]:
        """The same run with other micro-batches, which differs in rounding alone, compared with the first one."""
        parallelism = self.model.parallelism
        other = evolve(parallelism, micro_batch_size=3 - parallelism.micro_batch_size)
        run = self._run(root, evolve(self.model, parallelism=other))
        found = run.train()
        return compare(rows, found, weights_difference(checkpoint, run.checkpoint), tolerance)

    def _run(self, root: Path, model: Trained) -> Run:
        return Run.create(root, model, self.tokens.inputs, self.machine)


def weights_difference(one: Path, other: Path) -> WeightsDifference:
    """How far the weights of two checkpoint artifacts are apart."""
    # In a process of its own: reading weights takes torch.
    command = [sys.executable, "-P", "-m", "llmrecipe.engines.models.difference", str(one), str(other)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    largest, where = found["largest"], found["where"]
    if largest == 0 and _digests(one) != _digests(other):
        # No distance, but not the same bits.
        largest, where = sys.float_info.min, "zeros of different signs"
    return WeightsDifference(largest=largest, where=where)


def _digests(checkpoint: Path) -> dict[str, str]:
    files = artifacts.open_artifact(checkpoint, "checkpoint")["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.endswith(".safetensors")}
