"""`dvc.yaml` and `params.yaml`: the one place that knows how a pipeline is written for DVC.

Entries of an earlier plan are replaced, and everything else in the files stays as it is. A stage is an earlier
plan's if its `meta.llmrecipe` names its owner; a section of `params.yaml`, if its owner has runtime choices in the
same file. So the sections are known even if a crash left the two files at odds.
"""

import inspect
import posixpath
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, codec
from llmrecipe.errors import PlanError
from llmrecipe.plan.pipeline import Pipeline
from llmrecipe.plan.stage import Stage
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.sections import SECTION_OF_KIND
from llmrecipe.yamltext import YamlText

PIPELINE_FILE = "dvc.yaml"
PARAMS_FILE = "params.yaml"
RUNTIME = "runtime"
"""The section of `params.yaml` that no stage tracks."""

_OWNER_KEY = "llmrecipe"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_PIPELINE_HEADER = f"""\
# `llmrecipe plan` writes the stages that have `meta.{_OWNER_KEY}` and the plots named after them.
# All else is yours: it stays as it is.
"""
_PARAMS_HEADER = f"""\
# `llmrecipe plan` writes a section for each of its stages, and `{RUNTIME}`, which no stage tracks.
# All else is yours: it stays as it is.
"""


def write(pipeline: Pipeline, root: Path) -> list[Path]:
    """Write a pipeline into the DVC project at `root`; the files that had to be changed.

    Raises:
        PlanError: `root` isn't the root of a DVC project, a name that DVC can't take, a file that can't be read, or
            something written by hand that stands in the way. Nothing is written then.
    """
    _refuse_other_folders(root)
    _refuse_odd_names(pipeline)
    dvc = YamlText.read(root / PIPELINE_FILE, fresh=_PIPELINE_HEADER)
    params = YamlText.read(root / PARAMS_FILE, fresh=_PARAMS_HEADER)
    written_stages = _written_stages(dvc)
    written_sections = _written_sections(params) | written_stages
    _refuse_overlaps(pipeline, dvc, written_stages)
    _refuse_taken_sections(pipeline, params, written_sections)
    written_plots = [title for title in dvc.entries("plots") if title.split(" ")[0] in written_stages]
    new_dvc = dvc.replace("plots", written_plots, [plot for stage in pipeline.stages for plot in _plots(stage)])
    new_dvc = new_dvc.replace("stages", written_stages, {stage.name: _stage_entry(stage) for stage in pipeline.stages})
    new_params = params.replace(None, written_sections, _sections(pipeline))
    changed = []
    for file in (new_params, new_dvc):
        if not file.path.exists() or file.path.read_bytes() != file.text.encode():
            artifacts.write_text(file.path, file.text)
            changed.append(file.path)
    return changed


def _sections(pipeline: Pipeline) -> dict[str, Any]:
    runtimes = {owner: codec.unstructure(runtime) for owner, runtime in sorted(pipeline.runtimes.items())}
    return {stage.name: codec.unstructure(stage.section) for stage in pipeline.stages} | {RUNTIME: runtimes}


def _stage_entry(stage: Stage) -> dict[str, Any]:
    entry = {
        "desc": inspect.getdoc(type(stage.section)),
        "cmd": _literal(shlex.join(stage.command)),
        "deps": sorted(map(_literal, stage.inputs.values())),
        "params": [stage.name],
        "outs": [f"{stage.output}/{name}" for name in stage.outs],
        "metrics": [f"{stage.output}/{name}" for name in stage.metrics],
        "meta": {_OWNER_KEY: stage.owner},
    }
    return {key: value for key, value in entry.items() if value}


def _plots(stage: Stage) -> Iterator[dict[str, Any]]:
    # Declared at the top, not with the stage's outputs: DVC loads one plot of a stage's file, and no file that
    # isn't an output. Lines as they are, because DVC's default smooths them.
    for plot in stage.plots:
        drawn = {"template": "simple", "x": "step", "y": plot.curves, "y_label": plot.title}
        yield {f"{stage.name} {plot.title}": drawn}


def _literal(text: str) -> str:
    """`text` as DVC's templates leave it alone."""
    return text.replace("${", r"\${")


def _written_stages(dvc: YamlText) -> set[str]:
    return {
        name
        for name, entry in dvc.entries("stages").items()
        if isinstance(entry, dict)
        and isinstance(meta := entry.get("meta"), dict)
        and name in _names_of(meta.get(_OWNER_KEY, ""))
    }


def _written_sections(params: YamlText) -> set[str]:
    runtimes = params.entries().get(RUNTIME)
    if runtimes is None:
        return set()
    known = {field.name for field in attrs.fields(Runtime)}
    if not isinstance(runtimes, dict) or not all(
        isinstance(choices, dict) and choices.keys() <= known for choices in runtimes.values()
    ):
        raise params.refuse(
            None,
            RUNTIME,
            f"the section {RUNTIME!r} isn't one that `llmrecipe plan` has written (a mapping of "
            f"{', '.join(sorted(known))} for each recipe); rename or correct it",
        )
    return {RUNTIME}.union(*map(_names_of, runtimes))


def _names_of(owner: str) -> set[str]:
    return {f"{owner}-{kind}" for kind in SECTION_OF_KIND}


def _refuse_other_folders(root: Path) -> None:
    if (root / ".dvc").is_dir():
        return
    for parent in root.resolve().parents:
        if (parent / ".dvc").is_dir():
            raise PlanError(f"the DVC project's root is {parent}; run `llmrecipe plan` there")
    raise PlanError("no DVC project here; run `dvc init` in the project's root, then `llmrecipe plan` again")


def _refuse_odd_names(pipeline: Pipeline) -> None:
    for stage in pipeline.stages:
        if not _NAME.fullmatch(stage.owner):
            raise PlanError(f"{stage.owner!r} can't name stages: use letters, digits, '_' and '-', not '-' first")


def _refuse_taken_sections(pipeline: Pipeline, params: YamlText, written: set[str]) -> None:
    for name in params.entries():
        if name not in written and name in {stage.name for stage in pipeline.stages}:
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
    """What a stage written by hand declares, as far as it can be read without DVC's templates."""
    if not isinstance(entry, dict):
        return
    entry = entry.get("do", entry)
    for key in ("outs", "metrics", "plots"):
        for output in entry.get(key) or ():
            path = next(iter(output)) if isinstance(output, dict) else output
            yield posixpath.normpath(posixpath.join(entry.get("wdir", ""), path))


def _overlap(first: str, second: str) -> bool:
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")
