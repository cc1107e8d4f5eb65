"""What makes two things the same: files by size and time, an artifact by its manifest, work by all that decides it."""

import hashlib
from pathlib import Path
from typing import Any

from llmrecipe import artifacts

FileStates = dict[str, tuple[int, int]]
"""Size in bytes and time of change in nanoseconds by path."""


def of_files(path: Path) -> FileStates:
    """The state of a file, or of every file below a folder: another one if a file was written, moved or replaced.

    The content isn't read, so a large corpus costs nothing.
    """
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    states = {str(file): file.stat() for file in files if file.is_file()}
    return {file: (status.st_size, status.st_mtime_ns) for file, status in states.items()}


def of_artifact(directory: Path) -> str:
    """A SHA-256 that two artifacts share exactly if they hold the same files: that of the manifest."""
    return artifacts.file_digest(directory / artifacts.MANIFEST)


def of_outputs(folder: Path) -> str:
    """A SHA-256 that two output folders of stages share exactly if they hold the same, artifacts by their manifests."""
    read = telling_files(folder)
    return of_work({path.relative_to(folder).as_posix(): artifacts.file_digest(path) for path in read})


def telling_files(folder: Path) -> list[Path]:
    """The files that say what is in an output folder: those outside of artifacts, and the manifests of those."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    sealed = {path.parent for path in files if path.name == artifacts.MANIFEST and artifacts.is_artifact(path.parent)}
    return [
        path
        for path in files
        # DVC may leave rules for git here.
        if path.name != ".gitignore" and (path.name == artifacts.MANIFEST or sealed.isdisjoint(path.parents))
    ]


def of_work(decides: Any) -> str:
    """A SHA-256 that two pieces of work share exactly if all that decides their result, plain data, is equal."""
    return hashlib.sha256(artifacts.to_json(decides).encode()).hexdigest()


def work_folder(parent: Path, decides: Any) -> Path:
    """The folder below `parent` for the state of work that is decided by this plain data."""
    return parent / of_work(decides)[:16]
