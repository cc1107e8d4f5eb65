"""`dvc.yaml`, `params/` and `params.yaml`: the one place that knows how a pipeline is written for DVC.

Entries of an earlier plan are replaced, and everything else in the files stays as it is. A stage is an earlier plan's
if its `meta` names us and its command names it; a section is, if such a stage has its name, or if a planned one has and
the section can be read as its own: a crash may have left the files at odds.

The stage that a recipe ends in also holds where the recipe was found, so the next plan can keep it.
"""

import posixpath
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts, codec, layout, machines, wiring
from llmrecipe.errors import PlanError, RecipeError
from llmrecipe.extensions import extensions_of
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.pages import summary
from llmrecipe.sections import section_of_kind
from llmrecipe.wiring import Wiring
from llmrecipe.yamltext import YamlText

PIPELINE_FILE = "dvc.yaml"

_OWNER_KEY = "llmrecipe"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_TEMPLATE = re.compile(r"\$\{[^}]*\}")
_PIPELINE_HEADER = f"""\
# `llmrecipe plan` writes the stages that have `meta.{_OWNER_KEY}` and the plots named after them.
# All else is yours: it stays as it is.
"""
_PARAMS_HEADER = """\
# `llmrecipe plan` writes a section for each of its stages. All else is yours: it stays as it is.
"""
_MACHINES_HEADER = f"""\
# `llmrecipe plan --machine` writes `{machines.ENTRY}`: what runs all stages, or those of a model, a text or one stage.
# No stage tracks it: nothing runs again for another machine. All else is yours: it stays as it is.
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

    def sections(self, root: Path) -> dict[str, Any]:
        """Its sections of the parameters as they are written, by stage."""
        files = {_params_file(entry): None for entry in self.stages.values()}
        known: dict[str, Any] = {}
        for file in files:
            known |= _load(root / file)
        return {name: known[name] for name in self.stages if name in known}


def recorded(root: Path) -> dict[str, Recorded]:
    """The recipes that are planned in the project at `root`, by name.

    Raises:
        PlanError: `dvc.yaml` can't be read.
    """
    # For what is wrong with the file, and where.
    YamlText.read(root / PIPELINE_FILE)
    return recorded_in(_load(root / PIPELINE_FILE))


def recorded_in(pipeline: Mapping[str, Any]) -> dict[str, Recorded]:
    """The recipes that are planned in the data of a `dvc.yaml`, by name."""
    stages = pipeline.get("stages") or {}
    ours = {name: entry for name, entry in stages.items() if _is_ours(name, entry)}
    makers = {out: name for name, entry in ours.items() for out in _outputs(entry)}
    found = {}
    for name, entry in ours.items():
        meta = entry["meta"][_OWNER_KEY]
        if isinstance(meta, dict) and "recipe" in meta:
            behind = _behind(name, ours, makers)
            recipe = Recorded(
                name=meta["owner"], reference=meta["recipe"], stages={each: ours[each] for each in behind}
            )
            found[recipe.name] = recipe
    return found


def outputs(root: Path) -> set[str]:
    """What the stages of the project at `root` make, whoever wrote them, relative to it: patterns of paths.

    A `*` stands where DVC fills something in, as for `${item}`.

    Raises:
        PlanError: `dvc.yaml` can't be read.
    """
    # For what is wrong with the file, and where.
    YamlText.read(root / PIPELINE_FILE)
    stages = _load(root / PIPELINE_FILE).get("stages") or {}
    return {_TEMPLATE.sub("*", output) for entry in stages.values() for output in _outputs(entry)}


def entries(
    pipeline: Pipeline, root: Path, references: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The stages of a pipeline as `dvc.yaml` has them, and as the parameters do, by name."""
    stages = {stage.name: _stage_entry(stage, root, references) for stage in pipeline.stages}
    return stages, {stage.name: _section(stage, root) for stage in pipeline.stages}


def write(
    pipeline: Pipeline,
    root: Path,
    *,
    references: Mapping[str, str],
    kept: Sequence[Recorded] = (),
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
    # Its scalars are texts, which is all that these look at.
    written_stages = dvc.entries("stages")
    before = {name: entry for name, entry in written_stages.items() if _is_ours(name, entry)}
    _refuse_overlaps(pipeline, dvc, written_stages, before.keys())
    stages, sections = entries(pipeline, root, references)
    for recipe in kept:
        written = recipe.sections(root)
        _refuse_changes(recipe, written, stages, sections)
        stages, sections = {**stages, **recipe.stages}, {**sections, **written}
    staying = {name for recipe in kept for name in recipe.stages} - {stage.name for stage in pipeline.stages}
    plots = [title for title in dvc.entries("plots") if title.split(" ")[0] in before.keys() - staying]
    new_dvc = dvc.replace("plots", plots, [plot for stage in pipeline.stages for plot in _plots(stage)])
    new_dvc = new_dvc.replace("stages", before, stages)
    # `dvc.yaml` last: what a crash leaves of the others is known again.
    files = [*_parameters(root, pipeline, before, stages, sections), *_machines(root, machines_of), new_dvc]
    return [file.path for file in files if _put(file)]


def _parameters(
    root: Path, pipeline: Pipeline, before: Mapping[str, Any], stages: Mapping[str, Any], sections: Mapping[str, Any]
) -> Iterator[YamlText]:
    """The files of parameters, with the sections of stages that are and without those of stages that were."""
    kinds = {stage.name: stage.kind for stage in pipeline.stages}
    files: dict[str, dict[str, None]] = {}
    for name, entry in [*before.items(), *stages.items()]:
        files.setdefault(_params_file(entry), {})[name] = None
    for file, names in sorted(files.items()):
        text = YamlText.read(root / file, fresh=_PARAMS_HEADER)
        ours = {name for name in names if name in before}
        for name in text.entries():
            if name in kinds and name not in before:
                if not _is_section(_load(root / file)[name], kinds[name]):
                    reason = f"the section {name!r} was written by hand, but a planned stage needs it"
                    raise text.refuse(None, name, reason)
                ours.add(name)
        yield text.replace(None, ours, {name: sections[name] for name in stages if name in names and name in sections})


def _machines(root: Path, chosen: Mapping[str, Machine] | None) -> Iterator[YamlText]:
    text = YamlText.read(root / layout.MACHINES_FILE, fresh=_MACHINES_HEADER)
    if chosen is None and machines.ENTRY in text.entries():
        return
    entry = {key: codec.unstructure(machine) for key, machine in (chosen or {machines.DEFAULT: Machine()}).items()}
    yield text.replace(None, [machines.ENTRY], {machines.ENTRY: entry})


def _put(file: YamlText) -> bool:
    """Write a file, or take it away if it is one of parameters with nothing in it; whether it wasn't so before."""
    if file.path.parent.name == layout.PARAMS and not file.entries():
        existed = file.path.exists()
        file.path.unlink(missing_ok=True)
        return existed
    if file.path.exists() and file.path.read_bytes() == file.text.encode():
        return False
    file.path.parent.mkdir(exist_ok=True)
    artifacts.write_text(file.path, file.text)
    return True


def planned_machines(root: Path) -> dict[str, Machine]:
    """The machines that the project's plan names, by stage, owner or `default`.

    Raises:
        RecipeError: the entry isn't one.
    """
    known = machines.planned(root / layout.MACHINES_FILE)
    return {key: machine for key in known.entries if (machine := known.find(key, key)) is not None}


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
        and f" --name {name} --params " in str(entry.get("cmd"))
        and isinstance(entry.get("params"), list)
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
    owner = {"owner": stage.owner, "recipe": references[stage.owner]} if stage.ends_recipe else stage.owner
    entry = {
        "desc": summary(type(stage.section)),
        # Some shells stay between `dvc` and their last command, and one that does outlives a `dvc` that is killed.
        "cmd": f"exec {shlex.join(_command(stage))}",
        "deps": sorted(map(_literal, stage.inputs.values())),
        "params": [{layout.params_file(stage.owner): [stage.name]}],
        "outs": [f"{stage.output}/{name}" for name in stage.outs],
        "metrics": [f"{stage.output}/{name}" for name in stage.metrics],
        "plots": [f"{stage.output}/{name}" for name in stage.pictures],
        "meta": {_OWNER_KEY: owner},
    }
    return {key: value for key, value in entry.items() if value}


def _section(stage: Stage, root: Path) -> dict[str, Any]:
    """A stage's section, and how it is tied to the project in `root`."""
    extensions = {path for word in (stage.section, *stage.facts) for path in extensions_of(word, root)}
    return wiring.written(stage.section, Wiring(inputs=stage.inputs, extensions=tuple(sorted(extensions))))


def _command(stage: Stage) -> list[str]:
    """The command line that does a stage's work, in the project's folder."""
    command = ["llmrecipe", "stage", stage.kind, "--name", stage.name, "--params", layout.params_file(stage.owner)]
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


def _is_section(data: Any, kind: str) -> bool:
    cls = section_of_kind(kind)
    if cls is None:
        return False
    try:
        codec.structure(wiring.read(data, "")[0], cls, "")
    except RecipeError:
        return False
    return True


def _refuse_changes(
    recipe: Recorded, written: Mapping[str, Any], stages: Mapping[str, Any], sections: Mapping[str, Any]
) -> None:
    for name in recipe.stages:
        if name in stages and (recipe.stages[name] != stages[name] or written.get(name) != sections[name]):
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


def _refuse_overlaps(pipeline: Pipeline, dvc: YamlText, entries: Mapping[str, Any], written: Collection[str]) -> None:
    planned = {stage.name: stage.output for stage in pipeline.stages}
    for name, entry in entries.items():
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


def _params_file(entry: Any) -> str:
    """Where the section of one of our stages is."""
    return str(next(iter(entry["params"][0])))


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
