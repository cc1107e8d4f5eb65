"""Whether stages can run in this folder, for this user: what DVC would say after the first of them, or as a riddle."""

import getpass
import os
from collections.abc import Iterator
from pathlib import Path

from llmrecipe import layout
from llmrecipe.errors import ProjectError

_CONFIG = Path(".dvc/config")

_SITE_CACHE = "DVC_SITE_CACHE_DIR"
"""Where DVC keeps its state, if not where the system has such."""


def refuse_unfit(root: Path) -> None:
    """Refuse a folder in which DVC can run nothing, or keep nothing of what has run.

    Raises:
        ProjectError: it is such a folder, with every reason.
    """
    reasons = list(_faults(root))
    if reasons:
        raise ProjectError("\n".join(reasons))


def _faults(root: Path) -> Iterator[str]:
    folder = str(root.absolute())
    if set("{}") & set(folder):
        yield (
            f"{folder!r} has a brace in its path, and in such a folder every `dvc repro` fails "
            "('QueryingProgress' object has no attribute 'postfix'); rename or move it"
        )
    yield from _of_user()
    yield from _of_links(root)
    if not (root / _CONFIG).is_file():
        # No project of DVC's yet.
        return
    git = next((each for each in (root.resolve(), *root.resolve().parents) if (each / ".git").exists()), None)
    if git is None and _setting(root, "core", "no_scm") != "true":
        yield f"{folder!r} is not in a git repository, and DVC works in one; run `git init` here"
    cache = root / ".dvc" / (_setting(root, "cache", "dir") or "cache")
    folders = [root / layout.ARTIFACTS, root / layout.SCRATCH, root / ".dvc/tmp", cache]
    if os.environ.get(_SITE_CACHE):
        folders.append(Path(os.environ[_SITE_CACHE]))
    yield from dict.fromkeys(reason for each in folders if (reason := _unwritable(each)))
    yield from _of_cache_type(root, cache)


def _of_user() -> Iterator[str]:
    try:
        getpass.getuser()
    except (KeyError, OSError):
        yield (
            f"the user id {os.getuid()} has no account on this machine, so DVC fails (getpwuid); give it any name, "
            "always the same: `export USER=me`"
        )
    try:
        Path.home()
    except RuntimeError:
        yield "this user has no home folder, and DVC looks for its settings there; `export HOME=FOLDER`"


def _of_links(root: Path) -> Iterator[str]:
    top, project = root / layout.ARTIFACTS, os.path.realpath(root)
    for path in [top, *sorted(top.glob("*")), *sorted(top.glob("*/*"))]:
        if not path.is_symlink():
            continue
        name, target = path.relative_to(root).as_posix(), os.path.realpath(path)
        # A stage replaces its own folder, also where that is a link into the project.
        if path.parent.parent == top or not Path(target).is_relative_to(project):
            yield (
                f"{name!r} is a link to {target!r}, and DVC keeps no outputs behind such a link; delete it, and put "
                "what is large on another disk by `dvc cache dir FOLDER` and `dvc config cache.type symlink`, or mount "
                f"that here: `mkdir {name} && mount --bind {target} {name}`"
            )


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written to a folder that is, or would be made; None if something can."""
    place = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    if place.is_symlink() and not place.exists():
        return f"{str(place)!r} is a link to {os.readlink(place)!r}, where nothing is; make that folder, or delete it"
    if not place.is_dir():
        return f"{str(place)!r} is a file, where stages and DVC need a folder; move it away"
    if not os.access(place, os.W_OK | os.X_OK):
        why = "its file system is read-only" if os.statvfs(place).f_flag & os.ST_RDONLY else "it belongs to another"
        return f"{str(place)!r} can't be written to ({why}), as stages and DVC do; change that, or move the project"
    return None


def _of_cache_type(root: Path, cache: Path) -> Iterator[str]:
    kinds = {each.strip() for each in _setting(root, "cache", "type").split(",")}
    if "hardlink" in kinds and not kinds & {"copy", "symlink"}:
        devices = {_nearest(each).stat().st_dev for each in (cache, root / layout.ARTIFACTS)}
        if len(devices) > 1:
            yield (
                "DVC's cache.type = hardlink, and its cache is on another disk than artifacts/, where no hard link "
                "leads; `dvc config cache.type symlink`"
            )


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _setting(root: Path, section: str, key: str) -> str:
    """A setting of DVC's own files in the project; "" if it has none."""
    found = ""
    for file in (root / _CONFIG, root / f"{_CONFIG}.local"):
        current = ""
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
            name, separator, value = (part.strip() for part in line.partition("="))
            if line.strip().startswith("["):
                current = line.strip().strip("[]").strip()
            elif separator and (current, name) == (section, key):
                found = value.strip("\"'")
    return found
