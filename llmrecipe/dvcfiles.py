"""`dvc.yaml` and `params.yaml`: the one place that knows how a pipeline is written for DVC.

Entries of an earlier plan are replaced, and everything else in the files stays as it is. A stage is an earlier plan's if
its `meta` names us and its command names it; a section of `params.yaml`, if such a stage has its name, or if a planned
one has and the section can be read as its own: a crash may have left the two files at odds.

The stage that a recipe ends in also holds where the recipe was found, so the next plan can keep it.
"""

import inspect
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts, codec, machines
from llmrecipe.errors import PlanError, RecipeError
from llmrecipe.extensions import extensions_of
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.machine import Machine
from llmrecipe.sections import ReportSection, section_of_kind
from llmrecipe.yamltext import YamlText

PIPELINE_FILE = "dvc.yaml"
PARAMS_FILE = "params.yaml"

_OWNER_KEY = "llmrecipe"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_PIPELINE_HEADER = f"""\
# `llmrecipe plan` writes the stages that have `meta.{_OWNER_KEY}` and the plots named after them.
# All else is yours: it stays as it is.
"""
_PARAMS_HEADER = f"""\
# `llmrecipe plan` writes a section for each of its stages, and `{machines.ENTRY}`, which no stage tracks.
# All else is yours: it stays as it is.
"""


@attrs.frozen(kw_only=True)
class Recorded:
    """A recipe that was planned before, as its stages are written."""

    name: str
    """The recipe's name."""

    reference: str
    """Where it was found: `recipes/quickstart.py`."""

    stages: dict[str, Any]
    """Its entries of `dvc.yaml`, by name."""

    sections: dict[str, Any]
    """Its sections of `params.yaml`, by name."""


def recorded(root: Path) -> dict[str, Recorded]:
    """The recipes that are planned in the project at `root`, by name.

    Raises:
        PlanError: a file can't be read.
    """
    # For what is wrong with a file, and where.
    YamlText.read(root / PIPELINE_FILE)
    YamlText.read(root / PARAMS_FILE)
    stages = _load(root / PIPELINE_FILE).get("stages") or {}
    sections = _load(root / PARAMS_FILE)
    ours = {name: entry for name, entry in stages.items() if _is_ours(name, entry)}
    makers = {out: name for name, entry in ours.items() for out in _outputs(entry)}
    found = {}
    for entry in ours.values():
        meta = entry["meta"][_OWNER_KEY]
        if isinstance(meta, dict) and "recipe" in meta:
            names = list(_behind(f"{meta['owner']}-{ReportSection.tag}", ours, makers))
            found[meta["owner"]] = Recorded(
                name=meta["owner"],
                reference=meta["recipe"],
                stages={name: ours[name] for name in names},
                sections={name: sections[name] for name in names if name in sections},
            )
    return found


def write(
    pipeline: Pipeline,
    root: Path,
    *,
    references: Mapping[str, str],
    kept: tuple[Recorded, ...] = (),
    machines_of: Mapping[str, Machine] | None = None,
) -> list[Path]:
    """Write a pipeline into the DVC project at `root`; the files that had to be changed.

    Args:
        pipeline: the stages.
        root: the project's folder.
        references: where each recipe of the pipeline was found, by name.
        kept: recipes planned before whose stages stay as they are written.
        machines_of: the whole `machine` entry; None leaves it as it is.

    Raises:
        PlanError: `root` isn't the root of a DVC project, a name that DVC can't take, a file that can't be read,
            something written by hand that is in the way, or a stage of a kept recipe that would change. Nothing is
            written then.
    """
    _refuse_other_folders(root)
    _refuse_odd_names(pipeline)
    dvc = YamlText.read(root / PIPELINE_FILE, fresh=_PIPELINE_HEADER)
    params = YamlText.read(root / PARAMS_FILE, fresh=_PARAMS_HEADER)
    written = {name for name, entry in dvc.entries("stages").items() if _is_ours(name, entry)}
    _refuse_overlaps(pipeline, dvc, written)
    sections = {stage.name: codec.unstructure(stage.section) for stage in pipeline.stages}
    taken = _left_by_a_crash(pipeline, params, written)
    _refuse_taken_sections(pipeline, params, written | taken)
    stages = {stage.name: _stage_entry(stage, root, references) for stage in pipeline.stages}
    for recipe in kept:
        _refuse_changes(recipe, stages, sections)
        stages = {**stages, **recipe.stages}
        sections = {**sections, **recipe.sections}
    plots = [title for title in dvc.entries("plots") if title.split(" ")[0] in written - _names(kept)]
    new_dvc = dvc.replace("plots", plots, [plot for stage in pipeline.stages for plot in _plots(stage)])
    new_dvc = new_dvc.replace("stages", written, stages)
    replaced = written | taken
    if machines_of is not None:
        replaced = replaced | {machines.ENTRY}
        sections[machines.ENTRY] = {key: codec.unstructure(machine) for key, machine in machines_of.items()}
    new_params = params.replace(None, replaced, sections)
    changed = []
    for file in (new_params, new_dvc):
        if not file.path.exists() or file.path.read_bytes() != file.text.encode():
            artifacts.write_text(file.path, file.text)
            changed.append(file.path)
    return changed


def planned_machines(root: Path) -> dict[str, Machine]:
    """The machines that the project's plan names, by stage, owner or `default`.

    Raises:
        RecipeError: the entry isn't one.
    """
    entry = _load(root / PARAMS_FILE).get(machines.ENTRY) or {}
    return {
        key: codec.structure(value, Machine, f"{PARAMS_FILE}:{machines.ENTRY}.{key}") for key, value in entry.items()
    }


def _names(recipes: tuple[Recorded, ...]) -> set[str]:
    return {name for recipe in recipes for name in recipe.stages}


def _load(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except FileNotFoundError:
        return {}
    return data or {}


def _is_ours(name: str, entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(meta := entry.get("meta"), dict)
        and _OWNER_KEY in meta
        and f" --name {name} " in str(entry.get("cmd"))
    )


def _behind(name: str, stages: Mapping[str, Any], makers: Mapping[str, str]) -> Iterator[str]:
    """The stage and all that it depends on, in the order in which they are written."""
    found, left = set(), [name]
    while left:
        current = left.pop()
        if current in stages and current not in found:
            found.add(current)
            left += [makers[path] for path in stages[current].get("deps") or () if path in makers]
    yield from (name for name in stages if name in found)


def _stage_entry(stage: Stage, root: Path, references: Mapping[str, str]) -> dict[str, Any]:
    is_report = isinstance(stage.section, ReportSection)
    owner = {"owner": stage.owner, "recipe": references[stage.owner]} if is_report else stage.owner
    entry = {
        "desc": inspect.getdoc(type(stage.section)),
        "cmd": _literal(shlex.join(_command(stage, root))),
        "deps": sorted(map(_literal, stage.inputs.values())),
        "params": [stage.name],
        "outs": [f"{stage.output}/{name}" for name in stage.outs],
        "metrics": [f"{stage.output}/{name}" for name in stage.metrics],
        "meta": {_OWNER_KEY: owner},
    }
    return {key: value for key, value in entry.items() if value}


def _command(stage: Stage, root: Path) -> list[str]:
    """The command line that does a stage's work, in the project's folder."""
    command = ["llmrecipe", "stage", stage.kind, "--name", stage.name]
    for role, path in stage.inputs.items():
        command += ["--input", f"{role}={path}"]
    for path in extensions_of(stage.section, root):
        command += ["--extension", path]
    return [*command, "--output", stage.output]


def _plots(stage: Stage) -> Iterator[dict[str, Any]]:
    # Declared at the top, not with the stage's outputs: DVC loads one plot of a stage's file, and no file that
    # isn't an output. Lines as they are, because DVC's default smooths them.
    for plot in stage.plots:
        drawn = {"template": "simple", "x": "step", "y": plot.curves, "y_label": plot.title}
        yield {f"{stage.name} {plot.title}": drawn}


def _literal(text: str) -> str:
    """`text` as DVC's templates leave it alone."""
    return text.replace("${", r"\${")


def _left_by_a_crash(pipeline: Pipeline, params: YamlText, written: set[str]) -> set[str]:
    """Sections that an earlier plan wrote before it could write their stages."""
    candidates = {stage.name: stage.kind for stage in pipeline.stages if stage.name not in written}
    if not candidates.keys() & params.entries().keys():
        return set()
    sections = _load(params.path)
    return {name for name, kind in candidates.items() if name in sections and _is_section(sections[name], kind)}


def _is_section(data: Any, kind: str) -> bool:
    cls = section_of_kind(kind)
    if cls is None:
        return False
    try:
        codec.structure(data, cls, "")
    except RecipeError:
        return False
    return True


def _refuse_changes(recipe: Recorded, stages: Mapping[str, Any], sections: Mapping[str, Any]) -> None:
    for name in recipe.stages.keys() & stages.keys():
        if recipe.stages[name] != stages[name] or recipe.sections.get(name) != sections[name]:
            raise PlanError(
                f"the stage {name} would change, and the recipe {recipe.name!r} ({recipe.reference}), which can't be "
                f"planned again, depends on it as it is; mend {recipe.reference}, or take it out with "
                f"`llmrecipe plan --remove {recipe.name}`"
            )


def _refuse_other_folders(root: Path) -> None:
    if (root / ".dvc").is_dir():
        return
    for parent in root.resolve().parents:
        if (parent / ".dvc").is_dir():
            raise PlanError(f"the DVC project's root is {parent}; run `llmrecipe plan` there")
    raise PlanError("no DVC project here; run `llmrecipe init .`, or `dvc init`, then `llmrecipe plan` again")


def _refuse_odd_names(pipeline: Pipeline) -> None:
    for stage in pipeline.stages:
        if not _NAME.fullmatch(stage.owner):
            raise PlanError(f"{stage.owner!r} can't name stages: use letters, digits, '_' and '-', not '-' first")


def _refuse_taken_sections(pipeline: Pipeline, params: YamlText, written: set[str]) -> None:
    planned = {stage.name for stage in pipeline.stages}
    for name in params.entries():
        if name not in written and name in planned:
            raise params.refuse(None, name, f"the section {name!r} was written by hand, but a planned stage needs it")


def _refuse_overlaps(pipeline: Pipeline, dvc: YamlText, written: set[str]) -> None:
    planned = {stage.name: stage.output for stage in pipeline.stages}
    for name, entry in dvc.entries("stages").items():
        if name in written:
            continue
        if name in planned:
            raise dvc.refuse("stages", name, f"the stage {name!r} was written by hand, but is also planned; rename one")
        for path in _outputs(entry):
            for other, folder in planned.items():
                if _overlap(path, folder):
                    reason = (
                        f"the output {path} of {name!r} overlaps with {folder}, the folder of the planned {other!r}"
                    )
                    raise dvc.refuse("stages", name, reason)


def _outputs(entry: Any) -> Iterator[str]:
    """What a stage declares, as far as it can be read without DVC's templates."""
    if not isinstance(entry, dict):
        return
    entry = entry.get("do", entry)
    for key in ("outs", "metrics", "plots"):
        for output in entry.get(key) or ():
            path = next(iter(output)) if isinstance(output, dict) else output
            yield posixpath.normpath(posixpath.join(entry.get("wdir", ""), path))


def _overlap(first: str, second: str) -> bool:
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")
