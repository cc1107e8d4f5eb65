"""What DVC has of files: the digests in `dvc.lock` and in `.dvc` files, and the copies in its cache."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts

LOCK_FILE = Path("dvc.lock")

ADDED = ".dvc"
"""How the name of a file ends that stands for others, as `dvc add` writes it."""

_FOLDER = ".dir"


@attrs.frozen(kw_only=True)
class Output:
    """An output of a stage, as `dvc.lock` has it, or what a `.dvc` file stands for."""

    stage: str
    """The stage; else the `.dvc` file."""

    path: Path
    """A file, or a folder."""

    md5: str
    """Its digest; that of a folder, which ends in `.dir`, is the digest of the list of its files."""

    @property
    def is_added(self) -> bool:
        """Whether the user has put it there, by `dvc add` or an import."""
        return self.stage.endswith(ADDED)


def output_of(path: Path) -> Output | None:
    """The output that is `path`, or that it lies in; None if DVC knows of none."""
    try:
        outputs = _outputs(LOCK_FILE.read_bytes())
    except FileNotFoundError:
        outputs = {}
    places = (path, *path.parents)
    made = next((outputs[place] for place in places if place in outputs), None)
    beside = (file for parent in path.parents for file in sorted(parent.glob(f"*{ADDED}")))
    return made or next((out for file in beside for out in _added(file) if out.path in places), None)


def digests(path: Path) -> dict[Path, str]:
    """The MD5 by which DVC knows each file that is `path` or below it; of some folders only its cache has them."""
    output = output_of(path)
    inside = [out for file in sorted(path.rglob(f"*{ADDED}")) for out in _added(file)] if path.is_dir() else []
    found: dict[Path, str] = {}
    for each in inside if output is None else [output, *inside]:
        found |= _listed(each, cache()) if each.md5.endswith(_FOLDER) else {each.path: each.md5}
    return {file: md5 for file, md5 in found.items() if path in (file, *file.parents)}


def _added(file: Path) -> Iterator[Output]:
    try:
        content: Any = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
        folder = file.parent / content.get("wdir", ".")
        for out in content["outs"]:
            # Without it, the digest is one of DVC 2, which left out carriage returns.
            if out.get("hash") == "md5" and "md5" in out:
                yield Output(stage=file.as_posix(), path=Path(os.path.normpath(folder / out["path"])), md5=out["md5"])
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError):
        # DVC itself says what is wrong with it.
        return


@lru_cache(maxsize=1)
def _outputs(lock: bytes) -> dict[Path, Output]:
    try:
        locked: Any = yaml.load(lock, Loader=yaml.CSafeLoader)
        return {
            Path(out["path"]): Output(stage=name, path=Path(out["path"]), md5=out["md5"])
            for name, entry in locked["stages"].items()
            for out in entry.get("outs") or ()
            if "md5" in out
        }
    except (yaml.YAMLError, AttributeError, TypeError, KeyError):
        # DVC itself says what is wrong with it.
        return {}


def digest_of(path: Path) -> str | None:
    """The MD5 that a file of an output had when its stage had left it; None if DVC doesn't know."""
    output = output_of(path)
    return None if output is None else _digest(output, path, cache())


def cache() -> Path | None:
    """Where the cache is; None if DVC can't say.

    It is asked, since it has settings of the project, the user and the system for this.
    """
    asked = subprocess.run([sys.executable, "-P", "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    return Path(asked.stdout.strip()) if asked.returncode == 0 and asked.stdout.strip() else None


def file_of(md5: str, path: Path, cache: Path | None) -> Path | None:
    """A file that holds what an output did that had this digest: in the cache, or still in its place; else None."""
    places = [path] if cache is None else [_object(cache, md5), path]
    return next((each for each in places if each.is_file() and _is_whole(each, md5)), None)


def way_back(path: Path) -> str:
    """How a damaged file in an output gets its content back, by what DVC's cache has of it."""
    output = output_of(path)
    if output is None:
        return "DVC knows nothing of it: delete the folder and run its stage again"
    again = f"dvc repro --force --single-item {shlex.quote(output.stage)}"
    whole = shlex.quote(output.path.as_posix())
    copy, is_whole = _copy(output, path)
    if output.is_added:
        fetch = f"`dvc pull {whole}` fetches one, if it was pushed"
        edited = f"if it was you who changed it, `dvc commit {shlex.quote(output.stage)}` takes it as it is"
        if copy is not None and not is_whole:
            return f"DVC's cached copy is damaged, too: `rm -f {shlex.quote(str(copy))}`, then {fetch}; {edited}"
        if copy is None:
            return f"DVC's cache has no copy of it; {fetch}; {edited}"
        taken = f"`rm -f {shlex.quote(path.as_posix())} && dvc checkout {whole}` takes it"
        return f"DVC's cached copy is whole: {taken}; {edited}"
    if copy is None:
        return f"DVC's cache has no copy of it; `dvc pull {whole}` fetches one, if it was pushed, or `{again}` makes it"
    if is_whole:
        return f"DVC's cached copy is whole: `rm -f {shlex.quote(path.as_posix())} && dvc checkout {whole}` takes it"
    # While the copy is there, DVC links it again in the place of what the stage has made anew.
    return f"DVC's cached copy is damaged, too: `rm -f {shlex.quote(str(copy))} && {again}` makes both anew"


def _copy(output: Output, path: Path) -> tuple[Path | None, bool]:
    """The file in the cache that decides what `path` is after a checkout, and whether it is whole."""
    place = cache()
    if place is None:
        return None, False
    listed = _object(place, output.md5)
    if listed.is_file() and not _is_whole(listed, output.md5):
        return listed, False
    md5 = _digest(output, path, place)
    if md5 is None or not (copy := _object(place, md5)).is_file():
        return None, False
    return copy, _is_whole(copy, md5)


def _digest(output: Output, path: Path, cache: Path | None) -> str | None:
    if not output.md5.endswith(_FOLDER):
        return output.md5
    return _listed(output, cache).get(path)


def _listed(output: Output, cache: Path | None) -> dict[Path, str]:
    """The files of a folder with their digests, which only the cache has; none if it hasn't, or is damaged."""
    listed = cache and _object(cache, output.md5)
    if listed is None or not listed.is_file() or not _is_whole(listed, output.md5):
        return {}
    return {output.path / entry["relpath"]: str(entry["md5"]) for entry in json.loads(listed.read_bytes())}


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _is_whole(copy: Path, md5: str) -> bool:
    return artifacts.file_digest(copy, "md5") == md5.removesuffix(_FOLDER)
