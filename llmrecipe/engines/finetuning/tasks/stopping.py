"""When a fine-tuning was at its best, and when it ends early, by its rows."""

from collections.abc import Sequence

from llmrecipe.engines.runs.metrics import Row

SCORE = "validation_score"
"""What a row has of the validation examples: the higher, the better."""


def best_step(rows: Sequence[Row]) -> int | None:
    """The step with the best measurement, of equal ones that with the least loss; None before the first."""
    measured = [(-row[SCORE], row["validation_loss"], row["step"]) for row in rows if SCORE in row]
    return min(measured)[2] if measured else None


def last_step(rows: Sequence[Row], patience: int | None) -> int | None:
    """The step after which a run ends because so many measurements were no better than an earlier one; None if none."""
    if patience is None:
        return None
    best, waited = None, 0
    for row in rows:
        if SCORE not in row:
            continue
        found = (-row[SCORE], row["validation_loss"])
        if best is None or found < best:
            best, waited = found, 0
        else:
            waited += 1
        if waited == patience:
            return int(row["step"])
    return None
