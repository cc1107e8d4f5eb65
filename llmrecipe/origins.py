"""What a source needs beyond the project's own files: a way to a URL, an installed package, a file that DVC keeps."""

import errno
import glob
import importlib.util
import itertools
import os
import platform
import posixpath
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath

import yaml

from llmrecipe.errors import suggestion

_LOCAL = {"file", "local", "asynclocal", "git"}
"""Protocols of fsspec that lead to this machine's own disk."""

DVC_SUFFIX = ".dvc"

_LONGEST_NAME, _LONGEST_PATH = 255, 4000
"""Bytes of a file's name, and of a path that leaves some for the project's own."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""How a pointer of Git LFS begins (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""

LARGEST_POINTER = 1024
"""Bytes; every pointer has fewer."""

_COMMON = ["https", "http", "s3", "gs", "az", "hf", "ftp"]


def python_version() -> str:
    """The version of the Python that runs, whose standard library is a text: `3.11.7`."""
    return platform.python_version()


def is_url(path: str) -> bool:
    """Whether `path` is a URL, and no path in the project."""
    return "://" in path


def outside(path: str) -> str | None:
    """Why `path`, of a file or a URL, leads out of the project to elsewhere on this machine; None if it doesn't."""
    pure = PurePosixPath(path)
    is_local = path.partition("://")[0] in _LOCAL if is_url(path) else pure.is_absolute() or ".." in pure.parts
    if is_local:
        return f"{path!r} leads out of the project; copy or link it into the project and name it from there (data/…)"
    return None


def refusal(path: str) -> str | None:
    """Why a file or a URL can't be read from this project, whatever is there; None if it can."""
    return outside(path) or (_url_refusal(path) if is_url(path) else too_long(path))


def too_long(path: str) -> str | None:
    """Why no file of this machine can have the path `path`; None if one can."""
    sizes = [len(part.encode(errors="replace")) for part in path.split("/")]
    if max(sizes) > _LONGEST_NAME:
        return f"a name in {path[:40]!r}… has {max(sizes)} bytes, and no file system takes more than {_LONGEST_NAME}"
    total = sum(sizes) + len(sizes) - 1
    if total > _LONGEST_PATH:
        return f"{path[:40]!r}… has {total:,} bytes, and no path may have more than {_LONGEST_PATH:,}; shorten it"
    return None


def package_refusal(package: str) -> str | None:
    """Why `package`, `name==version`, isn't what is installed here; None if it is."""
    name, _, wanted = package.partition("==")
    try:
        installed = version(name)
    except PackageNotFoundError:
        return f"{package!r} is not installed; `pip install {package}`"
    if installed != wanted:
        return (
            f"{package!r} is asked for, and {name} {installed} is installed; `pip install {package}`, or name the "
            f"version that is here: '{name}=={installed}'"
        )
    return None


def not_pulled(pattern: str, root: Path) -> str | None:
    """That files of `pattern`, missing below `root`, are kept by DVC, if a `.dvc` file there says so; else None."""
    if outside(pattern):
        return None
    folder = PurePosixPath(watched(pattern))
    beside = [path for parent in folder.parents for path in (root / parent).glob("*.dvc")]
    for path in sorted([*beside, *(root / folder).rglob("*.dvc")]):
        place = path.relative_to(root)
        for out in _outs(path):
            name = posixpath.normpath((place.parent / out).as_posix())
            if not (root / name).exists() and _may_hold(pattern, name):
                return f"{place.as_posix()} says that DVC keeps it; `dvc pull` brings it"
    return None


def matches(pattern: str, root: Path) -> list[str]:
    """What `pattern` means below `root`, sorted: files, and whatever stands where a file or its folder should be.

    A path that exists as it is written is that file, and brackets that match something as they are written are no
    pattern. A `.dvc` file next to what it stands for isn't meant, nor is a folder that `*` finds.
    """
    head, tail = _as_written(pattern, root)
    literal = [glob.escape("/".join(head))] if head else []
    broken = _broken_folders(literal, tail, root)
    for rest in ([part.replace("[", "[[]") for part in tail], tail):
        found = glob.glob("/".join([*literal, *rest]), root_dir=root, recursive=True)
        if any(not (root / name).is_dir() for name in found):
            return sorted({*broken, *(name for name in found if not _is_beside(name, pattern, root))})
    return sorted(broken)


def _broken_folders(literal: list[str], tail: list[str], root: Path) -> set[str]:
    """Links that lead nowhere where a pattern looks for folders; those that `**` finds, only if named like a folder."""
    above = [[*literal, *tail[:count]] for count in range(len(tail))]
    found = [
        (name, "**" in parts) for parts in above for name in glob.glob("/".join(parts), root_dir=root, recursive=True)
    ]
    return {
        name
        for name, is_anywhere in found
        if (root / name).is_symlink() and not (root / name).exists() and not (is_anywhere and Path(name).suffix)
    }


def unreadable(name: str, root: Path) -> str | None:
    """Why `name`, one of the `matches` below `root`, is no file to read; None if it is one."""
    path = root / name
    if any("\udc80" <= character <= "\udcff" for character in name):
        return f"{name!r} has a name that is not UTF-8, and documents bear the names of their files; rename it"
    if name.endswith(DVC_SUFFIX):
        return f"{name!r} is no text: {_brought(name, root)}, name it instead"
    if not path.exists():
        target = os.readlink(path) if path.is_symlink() else ""
        if _is_circle(path):
            return f"{name!r} is a link to {target!r}, which leads back to it; delete the link"
        return f"{name!r} is a link to {target!r}, where nothing is; bring it back, or delete the link"
    if path.is_dir():
        inside = f"{name}/*"
        return f"{name!r} is a folder, named like a file; name what it holds, as in {inside!r}, or rename it"
    if not path.is_file():
        return f"{name!r} is neither a file nor a folder; move it away"
    if path.stat().st_size < LARGEST_POINTER:
        try:
            with open(path, "rb") as file:
                return pointer(name, file.read(len(LFS_POINTER)))
        except OSError as error:
            return f"{name!r} can't be read ({error.strerror})"
    return None


def absent_in(folder: str, suffixes: tuple[str, ...], root: Path) -> Iterator[str]:
    """What in `folder`, below `root`, stands for a file that isn't there and whose name ends in one of `suffixes`."""
    for each in sorted(os.listdir(root / folder)):
        name = posixpath.join(folder, each)
        stands_for = _kept(name, root) if each.endswith(DVC_SUFFIX) else [name]
        is_there = all((root / kept).exists() for kept in stands_for)
        if is_there or not each.removesuffix(DVC_SUFFIX).endswith(suffixes):
            continue
        reason = f"{name!r}: {_brought(name, root)}" if each.endswith(DVC_SUFFIX) else unreadable(name, root)
        if reason:
            yield reason


def is_made(pattern: str, planned: Iterable[str]) -> bool:
    """Whether what `pattern` means may be one of what stages make, or be in one.

    Args:
        pattern: a path relative to the project, or a pattern of paths.
        planned: what stages make, with a `*` for what DVC fills in.
    """
    # As in DVC's files, where `./models/x` is models/x.
    place = PurePosixPath(pattern)
    places = [str(each) for each in (place, *place.parents)]
    return any(_may_hold(pattern, out) or any(fnmatchcase(each, out) for each in places) for out in planned)


def pointer(name: str, head: bytes) -> str | None:
    """That the file `name`, which begins with `head`, is a pointer of Git LFS; None if it isn't."""
    if head.startswith(LFS_POINTER):
        return f"{name!r} is a pointer of Git LFS, which stands for the file; `git lfs pull` brings that"
    return None


def brackets(pattern: str) -> str:
    """The end of a message about a pattern that matches nothing: how brackets are written, if it holds some."""
    return "; '[1]' in a pattern stands for '1': where a name holds a bracket, write '[[]'" if "[" in pattern else ""


def _is_circle(link: Path) -> bool:
    try:
        link.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def behind_link(path: str, pattern: str, root: Path) -> str | None:
    """Why DVC wouldn't notice a change of `path`, a file below `root` that `pattern` matches; None if it would.

    It follows links to files, and a link to a folder if that is what it is told to watch, but none inside such a
    folder.
    """
    folder = PurePosixPath(watched(pattern, root))
    inside = [parent for parent in PurePosixPath(path).parents if folder in parent.parents]
    # The outermost: behind a link to a folder that it is in there is no end of others.
    link = next((parent for parent in reversed(inside) if (root / parent).is_symlink()), None)
    if link is None:
        return None
    return (
        f"lies behind {str(link)!r}, a link to a folder, which DVC doesn't follow when it watches {str(folder)!r}; put "
        "the folder itself there, or move the link out and give it a pattern of its own"
    )


def watched(pattern: str, root: Path = Path()) -> str:
    """The part of a pattern that has to be watched for changes: a named file, or the folder that it searches."""
    head, tail = _as_written(pattern, root)
    return posixpath.normpath("/".join([*head, *itertools.takewhile(lambda part: not glob.has_magic(part), tail)]))


def _as_written(pattern: str, root: Path) -> tuple[list[str], list[str]]:
    """The parts of a pattern: those in front that exist as they are written, and the others."""
    parts = pattern.split("/")
    count = next((count for count in range(len(parts), 0, -1) if os.path.lexists(root / "/".join(parts[:count]))), 0)
    return parts[:count], parts[count:]


def _is_beside(name: str, pattern: str, root: Path) -> bool:
    """Whether `name`, which the pattern matches, isn't what it asks for, and nothing is lost without it."""
    path, last = root / name, pattern.rpartition("/")[2]
    if path.is_dir():
        is_found = "**" in pattern or not path.suffix
        return last in ("", "**") or (last == "*" and is_found)
    if not name.endswith(DVC_SUFFIX) or name == pattern:
        return False
    return all(os.path.lexists(root / kept) for kept in _kept(name, root))


def _kept(name: str, root: Path) -> list[str]:
    """What the `.dvc` file `name` stands for, by paths below `root`."""
    outs = list(_outs(root / name)) or [PurePosixPath(name).name.removesuffix(DVC_SUFFIX)]
    return [(PurePosixPath(name).parent / out).as_posix() for out in outs]


def _brought(name: str, root: Path) -> str:
    """What the `.dvc` file `name` is there for, and how that comes."""
    return f"it stands for {', '.join(map(repr, _kept(name, root)))}, which DVC keeps; `dvc pull` brings that"


def _url_refusal(url: str) -> str | None:
    # Only here: `check` and `plan` answer without fsspec where no recipe names a URL.
    from fsspec.registry import known_implementations

    if "::" in url:
        return f"{url!r} chains protocols with '::'; name one file or pattern that is not inside another"
    protocol = url.partition("://")[0]
    if protocol not in known_implementations:
        return f"{url!r} has a protocol that fsspec doesn't know{suggestion(protocol, _COMMON)}"
    needed = known_implementations[protocol]["class"].partition(".")[0]
    if importlib.util.find_spec(needed) is None:
        return f"{url!r} needs the Python package {needed}, which is not installed; `pip install {needed}`"
    return None


def _outs(path: Path) -> Iterator[str]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    outs = content.get("outs") if isinstance(content, dict) else None
    for out in outs if isinstance(outs, list) else []:
        if isinstance(out, dict) and isinstance(out.get("path"), str):
            yield out["path"]


def _may_hold(pattern: str, out: str) -> bool:
    """Whether `out` can match `pattern`, or be a folder in which something does."""
    parts, names = PurePosixPath(pattern).parts, PurePosixPath(out).parts
    for part, name in zip(parts, names, strict=False):
        if part == "**":
            return True
        if name != part and not fnmatchcase(name, part) and not fnmatchcase(part, name):
            return False
    return len(names) <= len(parts)
