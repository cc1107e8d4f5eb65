"""Whether a model learns on the device what it learns on the CPU."""

from pathlib import Path

import attrs

from llmrecipe.gpu_check.outcome import Outcome
from llmrecipe.gpu_check.scale import Precision, Scale
from llmrecipe.gpu_check.training import loss_difference, made_tokens, trained
from llmrecipe.recipe.evolve import evolve

ALLOWED: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far the loss of any step may be from the CPU's: what rounding explains of a run of ten steps."""


def run(scale: Scale, folder: Path) -> Outcome:
    """The same run on both, in each number format."""
    tokens = made_tokens(folder / "tokens", scale.small)
    rows, failures = [], []
    for precision in scale.precisions:
        allowed = ALLOWED[precision]
        case = attrs.evolve(scale.small, precision=precision)
        here, on_cpu = (
            trained(case, tokens, folder / f"{precision}-{place}", evolve(scale.machine, device=device))
            for place, device in (("here", scale.device), ("cpu", "cpu"))
        )
        difference = loss_difference(here, on_cpu)
        rows.append(
            {
                "precision": precision,
                "last loss": here.metrics[-1]["loss"],
                "on the CPU": on_cpu.metrics[-1]["loss"],
                "largest difference": difference,
                "allowed": allowed,
            }
        )
        if not difference <= allowed:
            failures.append(f"{precision}: a loss differs by {difference:.1e} from the CPU's; {allowed:.0e} is allowed")
    return Outcome(tables={f"losses of {scale.small.steps} steps on {scale.device}": rows}, failures=failures)
