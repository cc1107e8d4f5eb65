"""Runs one stage: its section and inputs in, its outputs whole at the end, or an error and nothing."""

import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
from ruamel.yaml import YAML, YAMLError

from llmrecipe import artifacts, codec, identity, integrity, layout, machines, origins, times, wiring, workplace
from llmrecipe.errors import RecipeError, StageError, suggestion
from llmrecipe.extensions import load_extension
from llmrecipe.foreign import ForeignFormatter
from llmrecipe.launch.lock import exclusive
from llmrecipe.launch.process import ancestors, die_with_parent, import_safely
from llmrecipe.machines import NONE, Machines
from llmrecipe.recipe import checks
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.schema import members
from llmrecipe.sections import Section, section_of_kind
from llmrecipe.stages.ahead import refuse_vain

S = TypeVar("S", bound=Section)


class Inputs(dict[str, Path]):
    """Input artifacts and files by role."""

    def __missing__(self, role: str) -> Path:
        given = ", ".join(self) or "nothing"
        raise StageError(
            f"its section names no `inputs.{role}`, which the stage needs; given: {given}; run `llmrecipe plan`"
        )


@attrs.frozen(kw_only=True)
class StageContext(Generic[S]):
    """All that a stage knows."""

    name: str
    """The stage's name, `small-code-train`."""

    section: S
    """Its section of the parameters."""

    inputs: Mapping[str, Path]
    """Its input artifacts and files by role, `{"tokens": …}`."""

    output: Path
    """An empty folder to fill; it becomes the stage's output folder when the stage has succeeded."""

    machine: Machine
    """Choices of the machine, not of the result."""

    scratch: Path
    """A folder of its own for state that should survive an interruption."""

    measured: dict[str, Any] = attrs.field(factory=dict)
    """What was measured about this very run (seconds, tokens per second), kept outside the hashed outputs."""

    curves: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict)
    """Measured tables by name, each a list of rows, kept with `measured`."""

    @property
    def parents(self) -> dict[str, str]:
        """Digests of the input artifacts' manifests by role."""
        return {role: identity.of_artifact(path) for role, path in self.inputs.items() if artifacts.is_artifact(path)}

    def corpora(self, role: str) -> dict[str, Path]:
        """The inputs in a role that each corpus fills, in their order.

        By corpus name if they are parts of a mixture (`tokens.web`, `tokens.books`); a corpus alone (`tokens`) is "".
        """
        parts = {key.removeprefix(f"{role}."): path for key, path in self.inputs.items() if key.startswith(f"{role}.")}
        return parts or {"": self.inputs[role]}


def run_stage(
    kind: str,
    *,
    name: str,
    output: Path,
    params: Path = layout.MACHINES_FILE,
    chosen: Machines = NONE,
) -> None:
    """Run the stage `name` of this kind.

    Args:
        kind: of work, `train`.
        name: of the stage, and of its section.
        output: the folder that it leaves.
        params: the file of its section, which also names what it reads.
        chosen: machines that go before those that `params` names.

    Raises:
        StageError: it can't do its work, or its section or inputs changed while it ran.
        RecipeError: its section is not valid.
    """
    import_safely()
    if "DVC_ROOT" in os.environ:
        die_with_parent(os.getppid())
        workplace.refuse_unfit(Path())
        _refuse_orphan(name, output)
    entry = _entry(_read_params(params), name, params)
    raw, tied = wiring.read(entry, f"{params}:{name}")
    for path in tied.extensions:
        load_extension(Path(path))
    cls = section_of_kind(kind)
    if cls is None:
        raise StageError(f"no such kind of stage {kind!r}{suggestion(kind, list(members(Section)))}")
    inputs = {role: Path(path) for role, path in tied.inputs.items()}
    # Named as DVC names parameters.
    section = codec.structure(raw, cls, f"{params}:{name}")
    broken = checks.section_violations(section, f"{params}:{name}")
    if broken:
        raise RecipeError(broken)
    owner = layout.owner_of(output)
    planned = machines.planned(layout.MACHINES_FILE)

    def machine_of(stage: str, owner: str) -> Machine:
        return chosen.find(stage, owner) or planned.find(stage, owner) or Machine()

    machine = machine_of(name, owner)
    _set_up_log(name, machine)
    refuse_vain(name, {**_project(), name: entry}, machine_of)
    _refuse_output(output, inputs)
    _refuse_missing(inputs)
    before = _states(inputs)
    started = time.monotonic()
    if output.parts[:1] == (layout.ARTIFACTS,):
        # Also what a killed stage leaves beside its output is nothing for git.
        artifacts.own_folder(Path(layout.ARTIFACTS))
    scratch = artifacts.own_folder(layout.SCRATCH) / name
    scratch.mkdir(exist_ok=True)
    # Next to the scratch folder, which a stage may clear.
    with exclusive(layout.SCRATCH / f"{name}.lock", f"running {name}"), artifacts.replacing(output) as temporary:
        # Only now: a second writer shouldn't wait for either to be refused, the reading or the heavy libraries.
        integrity.verify(inputs.values(), only_cards=cls.reads_only_cards)
        from llmrecipe.engines.quiet import hide_progress_bars

        hide_progress_bars()
        run: Callable[[StageContext[Section]], None] = importlib.import_module(
            cls.module or f"llmrecipe.stages.{kind}"
        ).run
        context = StageContext(
            name=name,
            section=section,
            inputs=Inputs(inputs),
            output=temporary,
            machine=machine,
            scratch=scratch,
        )
        run(context)
        _refuse_changes(before, inputs, entry, name, params)
    times.write(name, output, {"seconds": round(time.monotonic() - started, 3)} | context.measured, context.curves)


def _refuse_orphan(name: str, output: Path) -> None:
    # The `dvc` that started this process may have died since, before it could ask to die too. DVC notes which process
    # writes an output, and leaves the note when it is killed.
    try:
        notes = json.loads((Path(os.environ["DVC_ROOT"]) / ".dvc/tmp/rwlock").read_text(encoding="utf-8"))["write"]
    except (OSError, ValueError, KeyError):
        # None yet, or another `dvc` is writing one at this moment.
        return
    folder, above = output.resolve(), list(ancestors())
    for path, note in notes.items():
        if note and Path(path).is_relative_to(folder) and note["pid"] not in above:
            raise StageError(f"{name}: its `dvc`, process {note['pid']}, is gone; run `dvc repro` again")


def _refuse_missing(inputs: Mapping[str, Path]) -> None:
    for role, path in inputs.items():
        if not path.exists():
            way = origins.not_pulled(path.as_posix(), Path()) or "`dvc repro` makes what a stage needs"
            raise StageError(f"{path}: no such file or folder (the {role} input); {way}")


def _states(inputs: Mapping[str, Path]) -> dict[str, identity.FileStates]:
    return {role: identity.of_files(path) for role, path in inputs.items()}


def _set_up_log(name: str, machine: Machine) -> None:
    """Show our own messages from `machine.log_level` on, and those of the libraries from warnings on."""
    handler = logging.StreamHandler()
    handler.setFormatter(ForeignFormatter(f"{name}: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("llmrecipe").setLevel(machine.log_level.upper())


def _read_params(params: Path) -> dict[str, Any]:
    try:
        # As DVC reads it: `dvc exp run -S …=3e-5` writes 3e-05, which is a text to YAML 1.1 and so to PyYAML.
        data = YAML(typ="safe").load(params)
    except FileNotFoundError:
        raise StageError(f"{params}: no such file; run `llmrecipe plan`") from None
    except YAMLError as error:
        raise StageError(f"{params}: not YAML: {error}") from None
    if not isinstance(data or {}, dict):
        raise StageError(f"{params}: must be a mapping of sections; run `llmrecipe plan`")
    return data or {}


def _project() -> dict[str, Any]:
    """The sections of all stages of the project; a file that can't be read is left to the stages that need it."""
    found: dict[str, Any] = {}
    for file in sorted(Path(layout.PARAMS).glob("*.yaml")):
        try:
            found |= _read_params(file)
        except StageError:
            continue
    return found


def _entry(data: dict[str, Any], name: str, params: Path) -> Any:
    if name not in data:
        raise StageError(f"{params}: no section {name!r}; run `llmrecipe plan`")
    return data[name]


def _refuse_changes(before: object, inputs: Mapping[str, Path], entry: Any, name: str, params: Path) -> None:
    # DVC hashes parameters and dependencies again after the command and would pair this output with what they
    # have become.
    if _entry(_read_params(params), name, params) != entry:
        raise StageError(
            f"{name}: its section of {params} changed while it ran, so its output belongs to neither version; "
            "run `dvc repro` again"
        )
    if _states(inputs) != before:
        raise StageError(f"{name}: an input changed while it ran; run `dvc repro` again")


def _refuse_output(output: Path, inputs: Mapping[str, Path]) -> None:
    if output.exists() and not output.is_dir():
        raise StageError(f"{output}: a file, where the stage's output folder goes; move it away")
    for path in (Path(), *inputs.values()):
        if path.resolve().is_relative_to(output.resolve()):
            raise StageError(f"--output {output}: its content is replaced, and {path} is in it; name another folder")
