"""Work that an interrupted stage left half done, for the next run to resume."""

import functools
import importlib.metadata
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmrecipe import artifacts, codec, identity
from llmrecipe.stages.runner import StageContext


@contextmanager
def resumable(context: StageContext, product: str) -> Iterator[Path]:
    """A folder of the stage's scratch for all of its work, with what an interrupted run of the very same work left.

    The work is the same if section, inputs and installed packages are; what is left of any other is deleted. The
    folder holds a folder `product`, which at the end of the block moves into the stage's output, and all else is
    deleted. If the block fails, everything stays.
    """
    folder = identity.work_folder(context.scratch, _decides(context))
    directory = folder / product
    if context.scratch.exists():
        for other in list(context.scratch.iterdir()):
            # Without its product, it was handed over before it could be deleted.
            if other != folder or not directory.is_dir():
                _discard(other)
    directory.mkdir(parents=True, exist_ok=True)
    yield folder
    # The name goes first: what the move of another file system's folder is interrupted in must not pass for whole.
    done = directory.rename(folder / f"{product}.done")
    shutil.move(done, context.output / product)
    shutil.rmtree(context.scratch)


def is_resumed(work: Path) -> bool:
    """Whether this run resumes an earlier one, in which case its duration is not that of the whole job."""
    return any(path.is_file() for path in work.rglob("*"))


def _decides(context: StageContext) -> dict[str, Any]:
    """All that decides what the stage writes."""
    return {
        "inputs": _contents(context.inputs),
        "packages": _packages(),
        "python": platform.python_version(),
        "section": codec.unstructure(context.section),
    }


def _contents(inputs: Mapping[str, Path]) -> dict[str, Any]:
    """By role, the digest of an artifact's manifest, or else size and time of each file: reading it all is work."""
    return {
        role: identity.of_artifact(path) if artifacts.is_artifact(path) else identity.of_files(path)
        for role, path in inputs.items()
    }


@functools.cache
def _packages() -> list[str]:
    return sorted({f"{package.name} {package.version}" for package in importlib.metadata.distributions()})


def _discard(folder: Path) -> None:
    # Under another name first: a part that a kill leaves must not pass for the whole.
    doomed = folder.with_name(f"{folder.name}.discarded")
    folder.rename(doomed)
    shutil.rmtree(doomed)
