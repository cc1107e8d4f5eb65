"""Whether a training holds as much memory as the formula says."""

from pathlib import Path

from llmrecipe.errors import StageError
from llmrecipe.gpu_check.footprint import peak_bytes
from llmrecipe.gpu_check.outcome import Outcome, Row
from llmrecipe.gpu_check.scale import Scale
from llmrecipe.gpu_check.training import made_tokens, measured

ALLOWED = 0.1
"""How far the peak may be from the formula, as a share of it."""


def run(scale: Scale, folder: Path) -> Outcome:
    """The peak of each case beside the formula; on a CPU all of the process is measured, and nothing is judged."""
    rows: list[Row] = []
    failures: list[str] = []
    for number, case in enumerate(scale.memory):
        place = folder / str(number)
        expected = peak_bytes(case)
        what = {
            "network": case.name,
            "vocabulary": case.vocab_size,
            "precision": case.precision,
            "micro-batch": f"{case.micro_batch} × {case.sequence_length}",
            "recomputed": case.recompute,
            "formula, GB": expected / 1e9,
        }
        try:
            found = measured(case, made_tokens(place / "tokens", case), place, scale.machine).peak_bytes
        except StageError as error:
            failures.append(f"case {number + 1}: {error}")
            rows.append(what)
            continue
        rows.append(what | {"measured, GB": found / 1e9, "measured / formula": found / expected})
        if scale.device == "cuda" and abs(found / expected - 1) > ALLOWED:
            failures.append(
                f"case {number + 1}: {found / 1e9:.2f} GB, and the formula says {expected / 1e9:.2f}; "
                f"{ALLOWED:.0%} is allowed"
            )
    return Outcome(tables={"peak memory of a rank": rows}, failures=failures)
