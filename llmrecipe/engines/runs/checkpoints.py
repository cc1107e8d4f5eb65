"""Resumable states of a run: whole or absent, in folders named by their steps."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from llmrecipe import artifacts
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)

KIND = "training-state"


def put_in_place(written: Path, final: Path) -> None:
    """Make `written`, whole and on the disk, the checkpoint `final`."""
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


def keep_newest(folder: Path, count: int, keeps: Callable[[int], bool]) -> None:
    """Delete all whole checkpoints but the newest `count` and those of steps that `keeps` names."""
    for step, old in checkpoints(folder)[count:]:
        if not keeps(step):
            shutil.rmtree(old)


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint is there, byte for byte as it was written; a damaged one is put aside."""
    if not folder.exists():
        return False
    try:
        artifacts.verify(folder, KIND)
    except StageError as damage:
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        log.warning("the checkpoint of step %s is damaged and put aside as %s: %s", folder.name, aside, damage)
        return False
    return True
