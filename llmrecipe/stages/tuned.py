"""What stages leave of a run of transformers' Trainer."""

import shutil
from collections.abc import Sequence
from typing import Any

from llmrecipe import artifacts
from llmrecipe.engines.finetuning.running import FinishedRun
from llmrecipe.stages.runner import StageContext

_CURVES = ("step", "tokens", "loss", "learning_rate", "grad_norm")


def leave(context: StageContext[Any], finished: FinishedRun[Any], validation: Sequence[str]) -> None:
    """Write the curves of a run, note what it took, and delete its state: the last that a stage does.

    Args:
        context: the stage's; `curves.csv` and `validation.csv` are written to its output.
        finished: the run.
        validation: columns of `validation.csv`; a row for each measurement.
    """
    # Two files, since DVC draws an empty cell as 0.
    for name, columns in (("curves.csv", _CURVES), ("validation.csv", validation)):
        rows = [{column: row[column] for column in columns} for row in finished.metrics if row.keys() >= set(columns)]
        artifacts.write_csv(context.output / name, columns, rows)
    each = finished.job.tokens_per_step
    context.curves["throughput"] = [
        {"step": row["step"], "tokens_per_second": round(each / row["seconds"], 1)} for row in finished.timings
    ]
    seconds = sum(row["seconds"] for row in finished.timings)
    context.measured["tokens_per_second"] = round(each * len(finished.timings) / seconds, 1)
    context.measured.update(finished.measurements)
    context.measured["ranks"] = finished.job.parallelism.world_size
    # The name goes first: what a kill leaves of it must not pass for whole.
    finished.state.root.rename(finished.state.root.with_name("done"))
    shutil.rmtree(context.scratch)
