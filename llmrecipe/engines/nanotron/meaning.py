"""What a run means: all that decides its result up to rounding, and so not its layout."""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrecipe import artifacts, codec, identity
from llmrecipe.errors import RecipeError
from llmrecipe.recipe.kinds import Schedule
from llmrecipe.recipe.quantity import Duration
from llmrecipe.sections import TrainSection

if TYPE_CHECKING:
    from llmrecipe.engines.nanotron.job import Job

Meaning = dict[str, Any]

_FILE = "meaning.json"


def meaning_of(job: "Job", section: TrainSection) -> Meaning:
    """The meaning of a job by this section: runs of equal meaning resume each other, whatever their layouts."""
    tokens = [identity.of_artifact(Path(directory)) for directory in job.tokens]
    start = identity.of_artifact(Path(job.start)) if job.start else None
    return _decided_by(section) | {"shares": list(job.shares), "start": start, "tokens": tokens}


def folder_of(meaning: Meaning, scratch: Path) -> Path:
    """The folder below `scratch` that holds the state of runs of this meaning; made if it isn't there."""
    folder = identity.work_folder(scratch, meaning)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(folder / _FILE, meaning)
    return folder


def others(folder: Path, meaning: Meaning) -> Iterator[tuple[Path, list[str]]]:
    """The folders of other meanings next to `folder`, each with what differs: `training.seed: 1 → 2`."""
    for file in sorted(folder.parent.glob(f"*/{_FILE}")):
        if file.parent != folder:
            yield file.parent, list(_differences(json.loads(file.read_text(encoding="utf-8")), meaning))


def akin(folder: Path, meaning: Meaning) -> Iterator[tuple[Path, Duration, Schedule]]:
    """The folders next to `folder` of runs that differ in their length and schedule alone, with both."""
    for other, differences in others(folder, meaning):
        if all(path.startswith(("training.duration.", "training.schedule.")) for path in differences):
            training = artifacts.read_json(other / _FILE)["training"]
            path = f"{other / _FILE}:training"
            # A word of another version, or of a module that is gone, can't be read.
            with suppress(RecipeError):
                duration: Duration = codec.structure(training["duration"], Duration, path)  # type: ignore[arg-type]
                yield other, duration, codec.structure(training["schedule"], Schedule, path)


def is_state(folder: Path) -> bool:
    """Whether a folder holds the state of a run."""
    return (folder / _FILE).is_file()


def changes(state: Path, section: TrainSection, inputs: Collection[str] | None) -> list[str]:
    """How the run of a state differs from one by this section: `training.seed: 1 → 2`; nothing if it may be the same.

    `inputs` are the digests of all artifacts that the latter reads, None if they aren't known.
    """
    found: Meaning = artifacts.read_json(state / _FILE)
    read = {name: found.get(name) for name in ("shares", "start", "tokens")}
    changed = list(_differences(found, _decided_by(section) | read))
    digests = {*(read["tokens"] or ()), *filter(None, [read["start"]])}
    if not changed and inputs is not None and not digests <= {*inputs}:
        return ["its inputs"]
    return changed


def _decided_by(section: TrainSection) -> Meaning:
    """All of a section that decides the result."""
    plain: Meaning = codec.unstructure(section)
    del plain["parallelism"]
    # What is kept on the way changes nothing of it.
    del plain["training"]["keep_every"]
    # Until a step is broken they train alike, and then the one can resume where the other has stopped.
    del plain["training"]["anomalies"]["action"]
    return plain


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}: {json.dumps(old)} → {json.dumps(new)}"
