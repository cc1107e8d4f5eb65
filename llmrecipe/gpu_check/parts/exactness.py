"""Whether the same run twice, and a run that was killed and resumed, give the same bits."""

from pathlib import Path

from llmrecipe.certify.comparison import EXACT, Column, Row, compare, tolerance_of
from llmrecipe.certify.proof import weights_difference
from llmrecipe.certify.run import Run
from llmrecipe.gpu_check.outcome import Outcome
from llmrecipe.gpu_check.scale import Scale
from llmrecipe.gpu_check.training import made_tokens
from llmrecipe.recipe.machine import Machine


def run(scale: Scale, folder: Path) -> Outcome:
    """On each machine straight through, again, and killed; without deterministic kernels rounding may differ."""
    tokens = made_tokens(folder / "tokens", scale.exact)
    rows, failures = [], []
    for machine in scale.machines:
        promise = "bits" if machine.deterministic else "rounding"
        for what, columns in _runs(scale, machine, tokens, folder / promise).items():
            rows.append(
                {"deterministic": machine.deterministic, "run": what}
                | {column.name: _cell(column) for column in columns}
                | {"promised": promise}
            )
            failures += [
                f"{what}, promised {promise}: {column.name} {column.difference:.1e} apart, {column.where}"
                for column in columns
                if not column.passes
            ]
    return Outcome(tables={f"{scale.exact.steps} steps in {scale.exact.precision}": rows}, failures=failures)


def _runs(scale: Scale, machine: Machine, tokens: Path, folder: Path) -> dict[str, tuple[Column, ...]]:
    """The second run and the killed one, each compared with the first."""
    case, model = scale.exact, scale.exact.model()
    straight, again, killed = (
        Run.create(folder / name, model, {"tokens": tokens}, machine) for name in ("straight", "again", "killed")
    )
    rounding = tolerance_of(case.precision, model.training.optimizer)
    expected = straight.train()

    def compared(run: Run, found: list[Row]) -> tuple[Column, ...]:
        difference = weights_difference(straight.checkpoint, run.checkpoint)
        return compare(expected, found, difference, EXACT if machine.deterministic else rounding)

    interval = machine.checkpoint_interval
    second = compared(again, again.train())
    # Between two checkpoints, so steps are lost and done again.
    step, _ = killed.train_until_killed(interval + (interval + 1) // 2)
    return {"again": second, f"killed at step {step} and resumed": compared(killed, killed.train())}


def _cell(column: Column) -> str:
    return f"{column.difference:.1e}" if column.difference else "identical"
