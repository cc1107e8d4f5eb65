"""Resumable states of a run: whole or absent, newest first."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmrecipe import artifacts
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.checkpoints import KIND, checkpoints, is_whole, keep_newest, put_in_place
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.errors import StageError, refusal
from llmrecipe.recipe.training import Training

if TYPE_CHECKING:
    from nanotron.trainer import DistributedTrainer


def save_whole(
    trainer: "DistributedTrainer", save: Callable[[], Path], count: int, keeps: Callable[[int], bool]
) -> None:
    """Let nanotron's `save` write into a folder that is renamed when every rank has written.

    nanotron writes in place, so a kill leaves a part under the name of the whole. The newest `count` checkpoints
    stay, and those of steps that `keeps` names.
    """
    from nanotron import distributed as dist

    settings, world = trainer.config.checkpoints, trainer.parallel_context.world_pg
    folder = settings.checkpoints_path
    temporary = folder / ".writing"
    is_first = dist.get_rank(world) == 0
    if is_first:
        shutil.rmtree(temporary, ignore_errors=True)
    dist.barrier(world)
    settings.checkpoints_path = temporary
    try:
        written = save()
        dist.barrier(world)
        if is_first:
            artifacts.seal(written, KIND)
            artifacts.sync_tree(written)
            put_in_place(written, folder / written.name)
            shutil.rmtree(temporary)
            keep_newest(folder, count, keeps)
    except Exception as error:
        # torch tells of a full disk as of a wrong position in its file.
        is_full = shutil.disk_usage(folder.parent).free < 1 << 20
        reason = refusal(error) or ("the disk is full; free some space, then run this again" if is_full else None)
        if reason is None:
            raise
        raise StageError(f"{folder}: the checkpoint of step {trainer.iteration_step}: {reason}") from error
    finally:
        settings.checkpoints_path = folder
    dist.barrier(world)


def newest(folder: Path, rows: Sequence[Row], training: Training, up_to: int) -> int:
    """The step of the newest whole checkpoint that a run can go on from, of at most `up_to`; 0 is the start.

    Those that the result needs of the steps so far have to be there as well: see `needed`. Damaged ones are put aside.
    """
    for step, _ in checkpoints(folder):
        if step <= up_to and all(is_whole(folder / str(each)) for each in (step, *needed(rows, training, step))):
            return step
    return 0


def needed(rows: Iterable[Row], training: Training, step: int) -> list[int]:
    """The steps up to `step` whose checkpoints are a part of the result, as far as the log of these tells."""
    every = training.keep_every
    kept = [] if every is None else list(range(every.count, step + 1, every.count))
    best = metrics.best_step(row for row in rows if row["step"] <= step) if training.select == "best" else None
    return kept if best is None else [*kept, best]
