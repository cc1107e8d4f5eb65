"""Whether what a stage reads is what another has written, and how it becomes so again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmrecipe import artifacts, cards, dvccache, identity, layout
from llmrecipe.errors import StageError
from llmrecipe.pretrained import elsewhere

_SHOWN = 5

_KINDS = ("checkpoint", "documents", "hessians", "mixture", "model", "predictions", "tokenizer", "tokens")
"""The kinds of our own stages; those of others aren't known."""


def verify(paths: Iterable[Path], *, only_cards: bool = False) -> None:
    """Read every file of these artifacts once, and compare it with its digest; weights wherever they lie.

    What isn't an artifact is compared with what DVC has of it: in `dvc.lock`, or where the user has put it under
    `dvc add`. Text that DVC doesn't keep has no digest and isn't read.

    Args:
        paths: folders and files.
        only_cards: read none of the files but those that say what an artifact is.

    Raises:
        StageError: one is damaged; the message says how it comes back.
    """
    paths = list(paths)
    folders = [path for path in paths if _is_sealed(path)]
    damaged = [file for path in paths if path not in folders for file in _damaged_data(path, only_cards)]
    for folder in folders:
        damaged += _damaged_in(folder, only_cards)
    _refuse(damaged)
    for folder in () if only_cards else folders:
        _verify_elsewhere(folder)


def read_json(path: Path) -> Any:
    """The data of a JSON file that is an output.

    Raises:
        StageError: it is damaged, or isn't JSON.
    """
    verify([path])
    return artifacts.read_json(path)


def verify_identity(folder: Path) -> None:
    """Compare the files by which an output folder is known, `identity.telling_files`, with what DVC has of them.

    Raises:
        StageError: one is damaged; the message says how it comes back.
    """
    outputs = sorted(folder.iterdir()) if folder.is_dir() else []
    known = {file: md5 for output in outputs for file, md5 in dvccache.digests(output).items()}
    _refuse(artifacts.unlike({file: known[file] for file in identity.telling_files(folder) if file in known}, "md5"))


def _refuse(damaged: list[Path]) -> None:
    if damaged:
        shown = [
            f"{path}: damaged, it is not as it was written; {dvccache.way_back(path)}" for path in damaged[:_SHOWN]
        ]
        more = [f"and {len(damaged) - _SHOWN} more files"] if len(damaged) > _SHOWN else []
        raise StageError("\n".join([*shown, *more]))


def _is_sealed(path: Path) -> bool:
    # A manifest in a folder of ours is one that we have written, also if it can't be read any more.
    is_ours = path.parts[:1] == (layout.ARTIFACTS,) and (path / artifacts.MANIFEST).is_file()
    return is_ours or artifacts.is_artifact(path)


def _damaged_in(folder: Path, only_cards: bool) -> list[Path]:
    try:
        sealed = artifacts.read_manifest(folder)
    except artifacts.Damage as damage:
        return [damage.path]
    entries = sealed["files"]
    read = [name for name in entries if not only_cards or name in (cards.FILE, elsewhere.FILE)]
    damaged = artifacts.unlike({folder / name: entries[name]["sha256"] for name in read})
    # The name or the size may be what is damaged, also of a file that isn't read.
    sizes = {folder / name: entry["bytes"] for name, entry in entries.items()}
    misfits = [path for path, size in sizes.items() if not path.is_file() or path.stat().st_size != size]
    damaged = list(dict.fromkeys([*damaged, *misfits]))
    # If a file isn't what the manifest says, either may be wrong, and DVC has a digest of both.
    manifest = folder / artifacts.MANIFEST
    is_odd = damaged or sealed["kind"] not in _KINDS
    return [manifest] if is_odd and _damaged_manifest(manifest) else damaged


def _damaged_manifest(manifest: Path) -> bool:
    md5 = dvccache.digest_of(manifest)
    return md5 is not None and artifacts.unlike({manifest: md5}, "md5") == [manifest]


def _damaged_data(path: Path, only_cards: bool) -> list[Path]:
    if only_cards and path.is_dir():
        return []
    known = {file: md5 for file, md5 in dvccache.digests(path).items() if file.is_file()}
    return artifacts.unlike(known, "md5")


def _verify_elsewhere(folder: Path) -> None:
    for path in artifacts.unlike(elsewhere.digests(folder)):
        output = dvccache.output_of(folder)
        again = f"dvc repro --force --single-item {output.stage}" if output else "its stage again"
        raise StageError(
            f"{path}: damaged, or not the file that was imported into {folder}; put that back, or run `{again}`, which "
            "imports the model as it is now"
        )
