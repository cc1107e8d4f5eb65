"""What a stage leaves behind: directories that are whole or absent, with a manifest, the same bytes every time."""

import csv
import ctypes
import errno
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmrecipe.errors import StageError

MANIFEST = "manifest.json"

_REMEDY = "delete the folder and run `dvc repro`"


class Damage(StageError):
    """An artifact is not what was sealed."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        """The file."""

        self.what = what
        """What is wrong with it."""

        super().__init__(f"{path}: {what}; {_REMEDY}")


def to_json(data: Any) -> str:
    """JSON with sorted keys and a final newline: equal data give equal bytes."""
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step: a reader sees the old text or the new, never a part."""
    temporary = _temporary(path)
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, data: Any) -> None:
    """Replace `path` in one step with `to_json(data)`."""
    write_text(path, to_json(data))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` in one step with a line of JSON for each row, in full precision."""
    write_text(path, "".join(json.dumps(row, sort_keys=True, allow_nan=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The data of a JSON file.

    Raises:
        StageError: it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: not JSON ({error}); {_REMEDY}") from None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace `path` in one step with a CSV table; a row that lacks a column has an empty cell."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())


def seal(directory: Path, kind: str) -> None:
    """Make `directory` an artifact: list every file in it with its size and SHA-256 in its manifest."""
    # A seal that was interrupted may have left it.
    _temporary(directory / MANIFEST).unlink(missing_ok=True)
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST
    }
    write_json(directory / MANIFEST, {"files": files, "kind": kind})


def is_artifact(directory: Path) -> bool:
    """Whether a folder was sealed; a `manifest.json` of somebody else's doesn't make it an artifact."""
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.keys() == {"files", "kind"}


def open_artifact(directory: Path, kind: str) -> dict[str, Any]:
    """The manifest of a whole artifact of this kind.

    Raises:
        Damage: it has a file that is missing or of another size, or its manifest is not as it was written.
        StageError: it isn't there, or is of another kind.
    """
    try:
        manifest = read_manifest(directory)
    except (FileNotFoundError, NotADirectoryError):
        raise StageError(f"{directory}: no {kind} artifact here; `dvc repro` makes it") from None
    if manifest["kind"] != kind:
        raise StageError(f"{directory}: expected a {kind} artifact, found {manifest['kind']!r}")
    for name, entry in manifest["files"].items():
        path = directory / name
        size = path.stat().st_size if path.exists() else None
        if size != entry["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise Damage(path, f"{found}, its manifest says {entry['bytes']} bytes")
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of an artifact of any kind, whose files aren't looked at.

    Raises:
        Damage: it is not byte for byte as `seal` writes it, so a single other bit is noticed.
    """
    path = directory / MANIFEST
    text = path.read_bytes()
    try:
        manifest: dict[str, Any] = json.loads(text)
        if manifest.keys() != {"files", "kind"} or to_json(manifest).encode() != text:
            raise ValueError
        for entry in manifest["files"].values():
            if entry.keys() != {"bytes", "sha256"}:
                raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise Damage(path, "not the manifest of an artifact, or damaged") from None
    return manifest


def verify(directory: Path, kind: str) -> None:
    """Compare every file of an artifact with its digest in the manifest.

    Raises:
        Damage: as `open_artifact`, or a file of the right size has other content.
        StageError: as `open_artifact`.
    """
    files = {directory / name: entry["sha256"] for name, entry in open_artifact(directory, kind)["files"].items()}
    for path in unlike(files):
        raise Damage(path, "its content is not what its manifest says; it was damaged")


def unlike(files: Mapping[Path, str], algorithm: str = "sha256") -> list[Path]:
    """Those of the files that are missing or don't have this digest; they are read in parallel."""

    def differs(path: Path) -> bool:
        return not path.is_file() or file_digest(path, algorithm) != files[path]

    # hashlib lets other threads run while it reads and adds up.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return [path for path, is_unlike in zip(files, pool.map(differs, files), strict=True) if is_unlike]


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """SHA-256, or what `hashlib` knows by another name, of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def own_folder(folder: Path) -> Path:
    """A folder that we make for ourselves, in which git ignores everything, whatever the project's own rules are.

    Raises:
        NotADirectoryError: a file is there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    rules = folder / ".gitignore"
    # A kill may have left it empty.
    if not rules.is_file() or not rules.stat().st_size:
        rules.write_text("*\n", encoding="utf-8")
    return folder


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A temporary folder next to `directory` that takes its place at the end, or vanishes if the work fails."""
    temporary = _temporary(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_tree(temporary)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(temporary, directory)
        sync(directory.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_tree(directory: Path) -> None:
    """Force every file and folder below `directory` to the disk."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def sync(path: Path) -> None:
    """Force one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Force to the disk whatever was written so far to the file system that holds `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs failed", str(path))
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    """Where what will be `path` is written first."""
    return path.with_name(f".{path.name}.tmp")
