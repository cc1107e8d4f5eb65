"""Resumable states of a run: whole or absent, newest first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from llmrecipe import artifacts
from llmrecipe.errors import StageError, refusal

if TYPE_CHECKING:
    from nanotron.trainer import DistributedTrainer

KIND = "training-state"


def save_whole(trainer: "DistributedTrainer", save: Callable[[], Path], keep: int, best: int | None) -> None:
    """Let nanotron's `save` write into a folder that is renamed when every rank has written.

    nanotron writes in place, so a kill leaves a part under the name of the whole. The newest `keep` checkpoints
    stay, and that of step `best`.
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
            _put_in_place(written, folder / written.name)
            shutil.rmtree(temporary)
            keep_newest(folder, keep, best)
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


def _put_in_place(written: Path, final: Path) -> None:
    if final.exists():
        shutil.rmtree(final)
    os.replace(written, final)
    artifacts.sync(final.parent)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the whole checkpoints, newest first."""
    if not folder.exists():
        return []
    found = [(int(path.name), path) for path in folder.iterdir() if path.name.isdecimal()]
    return sorted(found, reverse=True)


def keep_newest(folder: Path, count: int, best: int | None) -> None:
    """Delete all whole checkpoints but the newest `count` and that of step `best`."""
    for step, old in checkpoints(folder)[count:]:
        if step != best:
            shutil.rmtree(old)
