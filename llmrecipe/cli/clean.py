"""`llmrecipe clean`: what stages have left for a later run, and no run will ask for."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, codec, dvcfiles, identity, layout, wiring
from llmrecipe.engines.nanotron import meaning
from llmrecipe.errors import RecipeError
from llmrecipe.launch.lock import exclusive, is_held
from llmrecipe.sections import TrainSection


@attrs.frozen(kw_only=True)
class Leftover:
    """A folder that nothing needs any more."""

    path: Path
    """The folder."""

    reason: str
    """Why nothing will ask for it."""

    lock: Path
    """The lock file that is held while it is in use."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `clean` to the commands."""
    parser = subparsers.add_parser(
        "clean",
        help="delete what interrupted and finished runs have left and nothing needs; outputs stay",
        description=f"Looks for what is left over in {layout.SCRATCH}, lists it, and asks before it deletes anything.",
    )
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument("--yes", action="store_true", help="delete without asking")
    answers.add_argument("--dry-run", action="store_true", help="list only")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """List what is left over, and delete it if the answer is yes."""
    found = sorted(leftovers(Path()), key=lambda leftover: leftover.path)
    if not found:
        print(f"nothing in {layout.SCRATCH} is left over")
        return 0
    sizes = [_bytes(leftover.path) for leftover in found]
    for leftover, number in zip(found, sizes, strict=True):
        print(f"{_size(number):>9}  {leftover.path}: {leftover.reason}")
    print(f"{_size(sum(sizes)):>9}  in all")
    if options.dry_run:
        return 0
    if not options.yes and not sys.stdin.isatty():
        print("nothing was deleted: there is no terminal to ask at; `llmrecipe clean --yes` deletes all of these")
        return 0
    if not options.yes and not _answer("delete all of these? [y/N] "):
        print("nothing was deleted")
        return 0
    for leftover in found:
        with exclusive(leftover.lock, "deleting what is left over"):
            shutil.rmtree(leftover.path)
    return 0


def leftovers(root: Path) -> Iterator[Leftover]:
    """What is left over in the scratch folder of the project at `root`; what a stage is using is left out.

    Raises:
        PlanError: a file of the plan can't be read.
    """
    recipes = dvcfiles.recorded(root).values()
    stages = {name: entry for recipe in recipes for name, entry in recipe.stages.items()}
    sections = {name: section for recipe in recipes for name, section in recipe.sections(root).items()}
    for folder in _folders(root / layout.SCRATCH / "certify"):
        yield from _unless_held(folder, folder.with_name(f"{folder.name}.lock"), "left by a proof that didn't pass")
    for folder in _folders(root / layout.SCRATCH):
        if folder.name in ("certify", layout.TIMES.name, layout.COMPILED.name):
            continue
        lock = folder.with_name(f"{folder.name}.lock")
        if folder.name not in stages:
            yield from _unless_held(folder, lock, "no planned stage has this name")
        elif not is_held(lock):
            for path, reason in _in_stage(folder, stages[folder.name], sections.get(folder.name), root):
                yield Leftover(path=path, reason=reason, lock=lock)


def _unless_held(folder: Path, lock: Path, reason: str) -> Iterator[Leftover]:
    if not is_held(lock):
        yield Leftover(path=folder, reason=reason, lock=lock)


def _in_stage(folder: Path, entry: dict[str, Any], section: Any, root: Path) -> Iterator[tuple[Path, str]]:
    """What is left over in the folder of a stage that is planned by this entry and this section."""
    for state in _folders(folder):
        if state.suffix == ".discarded":
            yield state, "discarded, and its deletion was interrupted"
        elif meaning.is_state(state) and not is_held(state / "ranks.lock"):
            reason = _no_use(state, entry, section, root)
            if reason is not None:
                yield state, reason
            else:
                for damaged in state.glob("checkpoints/damaged-*"):
                    yield damaged, "a damaged checkpoint, put aside"


def _no_use(state: Path, entry: dict[str, Any], section: Any, root: Path) -> str | None:
    """Why no run resumes this state; None if one may, or if that can't be told."""
    try:
        planned = codec.structure(wiring.read(section, "")[0], TrainSection, "")
    except RecipeError:
        return None
    changes = meaning.changes(state, planned, _digests([root / path for path in entry["deps"]]))
    if changes:
        return f"of another run than the planned one: {', '.join(changes)}"
    logs = [(folder / "metrics.jsonl") for folder in (state, *(root / path for path in entry["outs"]))]
    ours, *theirs = (log.read_bytes() if log.is_file() else None for log in logs)
    if ours is not None and ours in theirs:
        return "its run is finished; without it, a change of `parallelism` trains from the start"
    return None


def _digests(inputs: list[Path]) -> set[str] | None:
    """Those of the artifacts that a stage reads, as long as all are there."""
    return set(map(identity.of_artifact, inputs)) if all(map(artifacts.is_artifact, inputs)) else None


def _answer(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _size(number: int) -> str:
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6)):
        if number >= bytes_of:
            return f"{number / bytes_of:.1f} {unit}"
    return f"{number / 1000:.1f} kB"
