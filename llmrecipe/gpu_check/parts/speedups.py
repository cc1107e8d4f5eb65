"""What each choice that a machine or a number format leaves makes of the large model's speed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from llmrecipe.errors import StageError
from llmrecipe.gpu_check.outcome import Outcome, Row
from llmrecipe.gpu_check.parts.speed import speed_of
from llmrecipe.gpu_check.peaks import peak_of
from llmrecipe.gpu_check.scale import Precision, Scale
from llmrecipe.gpu_check.training import made_tokens, measured
from llmrecipe.recipe.evolve import evolve


@attrs.frozen(kw_only=True)
class Choice:
    """What is other than usual."""

    machine: Mapping[str, Any] = attrs.field(factory=dict)
    """Fields of the machine."""

    environment: Mapping[str, str] = attrs.field(factory=dict)
    """Variables of the ranks."""

    precision: Precision | None = None
    """The recipe's; None for that of the case."""

    in_small: bool = False
    """Whether a dry run tries it, too."""


CHOICES = {
    "as it is": Choice(in_small=True),
    "any kernels": Choice(machine={"deterministic": False}, in_small=True),
    "compiled": Choice(machine={"compile": True}),
    "compiled, any kernels": Choice(machine={"compile": True, "deterministic": False}),
    "float8, compiled": Choice(machine={"compile": True}, precision="float8"),
    "memory in fixed blocks": Choice(environment={"PYTORCH_ALLOC_CONF": "expandable_segments:False"}),
    "one queue to the GPU": Choice(environment={"CUDA_DEVICE_MAX_CONNECTIONS": "1"}),
}


def run(scale: Scale, folder: Path) -> Outcome:
    """The same steps under each choice, beside those without."""
    tokens = made_tokens(folder / "tokens", scale.large)
    peak = peak_of(scale.device)
    rows: list[Row] = []
    failures: list[str] = []
    for name, choice in CHOICES.items():
        if scale.device == "cpu" and not choice.in_small:
            continue
        machine = evolve(scale.machine, **choice.machine)
        case = attrs.evolve(scale.large, precision=choice.precision or scale.large.precision)
        try:
            found = measured(case, tokens, folder, machine, choice.environment)
        except StageError as error:
            failures.append(f"{name}: {error}")
            continue
        speed = speed_of(case, found, peak.flops)
        usual = rows[0]["tokens/s"] if rows else speed["tokens/s"]
        rows.append({"choice": name} | speed | {"to the first": speed["tokens/s"] / usual})
    return Outcome(tables={f"{scale.large.name}, micro-batch {scale.large.micro_batch}": rows}, failures=failures)
