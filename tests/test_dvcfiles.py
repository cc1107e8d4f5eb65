"""What the planner leaves in dvc.yaml and params.yaml, read by DVC itself, and what it leaves alone."""

import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA
from dvc.utils.serialize import modify_yaml
from tiny_recipe import BASE, RECIPE

from llmrecipe import ByteLevelBPE, Corpus, Machine, codec, dvcfiles, evolve, place, source, wiring
from llmrecipe.errors import PlanError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.recipe import Recipe

OTHER = evolve(RECIPE, name="other", models=(evolve(BASE, name="wide", tokenizer=ByteLevelBPE(vocab_size=400)),))

HAND_DVC = """\
# My own pipeline.
vars:
  - width : 3     # only this
  - colours: [red,   green]

plots:
    - reports/own.csv:
        x: step     # my axis

stages:
    # compare everything
    report:
        cmd: >-
            python report.py
            --all
        deps: &needs
            - report.py
        outs:
            - reports/out.html: {cache: false}   # small
    each:
        foreach: ${colours}
        do:
            cmd: echo ${item} > ${item}.txt
            outs: [ '${item}.txt' ]
    cross:
        matrix: {a: [1, 2], b: [x, y]}
        cmd: echo ${item.a}
        deps: *needs

artifacts:
    best:
        path: reports/out.html
        type: model

metrics: [reports/own.json]
# the end
"""

HAND_PARAMS = """\
# mine
mine:   &mine
  rate : 1e-3   # DVC reads a number
  list: [ 1,2 ]
copy: *mine
"""


@pytest.fixture
def project(tmp_path):
    """The root of a DVC project, as far as the planner looks."""
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def opened(project) -> Repo:
    """The project as DVC understands it."""
    return Repo.init(project, no_scm=True, force=True)


def write(project, *recipes: Recipe) -> list[str]:
    references = {recipe.name: f"recipes/{recipe.name}.py" for recipe in recipes}
    return [path.name for path in dvcfiles.write(plan(recipes), project, references=references)]


def files(project) -> list[Path]:
    return sorted([*project.glob("*.yaml"), *project.glob("params/*.yaml")])


def contents(project) -> dict[str, bytes]:
    return {path.relative_to(project).as_posix(): path.read_bytes() for path in files(project)}


def sections(project) -> dict[str, Any]:
    """The sections of all stages."""
    return {name: section for path in project.glob("params/*.yaml") for name, section in read(path).items()}


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def without_planned(project, *recipes: Recipe) -> tuple[dict, dict]:
    """The pipeline and all parameters without the stages, plots and sections of `recipes`, as PyYAML reads them."""
    planned = {stage.name for stage in plan(recipes).stages}
    dvc, params = read(project / "dvc.yaml"), sections(project)
    dvc["stages"] = {name: stage for name, stage in dvc["stages"].items() if name not in planned}
    dvc["plots"] = [plot for plot in dvc["plots"] if next(iter(plot)).split()[0] not in planned]
    return dvc, {name: section for name, section in params.items() if name not in planned}


def test_equal_recipes_give_equal_bytes_and_are_written_once(tmp_path):
    projects = [tmp_path / name for name in "ab"]
    for project in projects:
        (project / ".dvc").mkdir(parents=True)
        assert write(project, RECIPE, OTHER) == [
            *(f"{owner}.yaml" for owner in ("books-bpe-300", "books-bpe-400", "books", "other", "small")),
            *(f"{owner}.yaml" for owner in ("tiny-w4a16", "tiny", "wide")),
            "params.yaml",
            "dvc.yaml",
        ]
    assert contents(projects[0]) == contents(projects[1])
    times = [path.stat().st_mtime_ns for path in files(projects[0])]
    assert write(projects[0], RECIPE, OTHER) == []
    assert [path.stat().st_mtime_ns for path in files(projects[0])] == times


def test_dvc_accepts_the_pipeline_and_sees_its_graph(project):
    write(project, RECIPE, OTHER)
    COMPILED_MULTI_STAGE_SCHEMA(yaml.safe_load((project / "dvc.yaml").read_text()))
    repo = opened(project)
    repo.index.check_graph()
    planned = {stage.name: stage for stage in plan([RECIPE, OTHER]).stages}
    assert {stage.name for stage in repo.index.stages} == planned.keys()
    for stage in repo.index.stages:
        assert {out.def_path for out in stage.outs} == set(planned[stage.name].products)
        assert {out.def_path for out in stage.outs if out.metric} == {
            f"{planned[stage.name].output}/{name}" for name in planned[stage.name].metrics
        }
        assert all(out.use_cache for out in stage.outs)
        files = {dep.def_path for dep in stage.deps if not dep.def_path.startswith("params/")}
        assert files == set(planned[stage.name].inputs.values())


def test_each_stage_tracks_its_own_section_alone(project):
    write(project, RECIPE, OTHER)
    for stage in opened(project).index.stages:
        (params,) = [dep for dep in stage.deps if dep.def_path.startswith("params")]
        assert params.params == [stage.name]
        assert params.def_path == f"params/{stage.outs[0].def_path.split('/')[1]}.yaml"


def test_a_stage_reads_back_the_section_that_the_recipe_gave(project):
    write(project, RECIPE)
    params = sections(project)
    for stage in plan([RECIPE]).stages:
        section, tied = wiring.read(params[stage.name], stage.name)
        assert codec.structure(section, type(stage.section), stage.name) == stage.section
        assert tied.inputs == stage.inputs


def test_machines_are_in_an_entry_of_their_own_that_a_plan_without_them_leaves_alone(project):
    machines = {"default": Machine(workers=7), "tiny": Machine(text_on=place.Slurm(partition="cpu", time_limit="1"))}
    write(project, RECIPE)
    without = contents(project)
    dvcfiles.write(plan([RECIPE]), project, references={"small": "recipes/small.py"}, machines_of=machines)
    assert dvcfiles.planned_machines(project) == machines
    changed = {name for name, text in contents(project).items() if text != without[name]}
    assert changed == {"params.yaml"}
    written = contents(project)
    assert write(project, RECIPE) == []
    assert contents(project) == written


def test_a_command_and_its_section_say_all_that_a_stage_needs_to_know(project):
    write(project, RECIPE)
    (stage,) = [stage for stage in opened(project).index.stages if stage.name == "tiny-w4a16-perplexity"]
    assert shlex.split(stage.cmd) == [
        *("exec", "llmrecipe", "stage", "measure", "--name", "tiny-w4a16-perplexity"),
        *("--params", "params/tiny-w4a16.yaml"),
        *("--output", "artifacts/tiny-w4a16/perplexity"),
    ]
    assert sections(project)[stage.name]["inputs"] == {
        "model": "artifacts/tiny-w4a16/quantize/model",
        "tokens": "artifacts/books-bpe-300/tokenize/tokens",
    }


def test_a_command_line_is_as_long_for_thousands_of_files_as_for_one(project):
    """What stands in it is of bounded length: Linux takes 128 KiB an argument, and DVC's shell gets the line as one."""
    lengths = []
    for count in (1, 3000):
        paths = tuple(f"data/{number:05}-{'long' * 20}.txt" for number in range(count))
        corpus = Corpus(name="books", source=source.TextFiles(paths=paths))
        write(project, evolve(RECIPE, models=(evolve(BASE, text=corpus),)))
        (stage,) = [stage for stage in opened(project).index.stages if stage.name == "books-prepare"]
        assert len(sections(project)["books-prepare"]["inputs"]) == count
        lengths.append(len(stage.cmd))
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(
    "path", ["data/with space.txt", "data/it's.txt", 'data/"q".txt', "data/${x}.txt", "data/é $HOME"]
)
def test_odd_paths_reach_dvc_and_the_shell_as_they_are(project, path):
    corpus = Corpus(name="books", source=source.TextFiles(paths=(path,)))
    write(project, evolve(RECIPE, models=(evolve(BASE, text=corpus),)))
    (stage,) = [stage for stage in opened(project).index.stages if stage.name == "books-prepare"]
    assert sections(project)[stage.name]["inputs"] == {"source0": path}
    assert path in {dep.def_path for dep in stage.deps}


@pytest.mark.parametrize("name", ["a b", "a/b", "-a", "ä", "a.b", "a@b"])
def test_a_name_that_dvc_can_not_take_is_refused(project, name):
    with pytest.raises(PlanError, match="can't name stages"):
        write(project, evolve(RECIPE, name=name))
    assert contents(project) == {}


@pytest.mark.parametrize("name", ["123", "true", "null", "1e3", "on"])
def test_a_name_that_yaml_could_take_for_something_else_stays_a_name(project, name):
    write(project, evolve(RECIPE, models=(evolve(BASE, name=name),), name=name))
    assert dvcfiles.recorded(project).keys() == {name}
    assert {f"{name}-train", f"{name}-report"} <= {stage.name for stage in opened(project).index.stages}


def test_what_was_written_by_hand_stays_byte_for_byte(project):
    (project / "params").mkdir()
    (project / "dvc.yaml").write_text(HAND_DVC)
    (project / "params.yaml").write_text(HAND_PARAMS)
    (project / "params/tiny.yaml").write_text(HAND_PARAMS)
    write(project, RECIPE)
    write(project, OTHER)
    write(project, RECIPE, OTHER)
    write(project, RECIPE)
    # What is planned is right below `plots:` and `stages:`.
    head, rest = HAND_DVC.split("plots:\n", 1)
    middle, tail = rest.split("stages:\n", 1)
    dvc = (project / "dvc.yaml").read_text()
    assert dvc.startswith(head + "plots:\n")
    assert f"\n{middle}stages:\n" in dvc
    assert dvc.endswith(f"\n{tail}")
    for name in ("params.yaml", "params/tiny.yaml"):
        assert (project / name).read_text().startswith(HAND_PARAMS)
    assert without_planned(project, RECIPE) == (yaml.safe_load(HAND_DVC), yaml.safe_load(HAND_PARAMS))


def test_dvc_runs_hand_written_stages_next_to_planned_ones(project):
    (project / "dvc.yaml").write_text(HAND_DVC)
    (project / "params.yaml").write_text(HAND_PARAMS)
    write(project, RECIPE)
    names = {stage.name for stage in opened(project).index.stages}
    assert {"report", "each@red", "each@green", "cross@1-x", "cross@2-y", "tiny-train"} <= names


def test_stages_and_sections_of_an_earlier_plan_go(project):
    write(project, OTHER)
    fresh = contents(project)
    write(project, RECIPE, OTHER)
    write(project, OTHER)
    assert contents(project) == fresh


def test_a_plan_is_known_again_after_dvc_has_rewritten_the_files(project):
    write(project, RECIPE)
    with modify_yaml(project / "dvc.yaml") as data:
        data["stages"]["mine"] = {"cmd": "echo mine"}
        data["stages"]["tiny-train"]["frozen"] = True
    with modify_yaml(project / "params/tiny.yaml") as data:
        data["tiny-train"]["training"]["optimizer"]["learning_rate"] = 3e-4
        data["mine"] = 1
    write(project, RECIPE)
    assert without_planned(project, RECIPE) == ({"stages": {"mine": {"cmd": "echo mine"}}, "plots": []}, {"mine": 1})
    write(project, OTHER)
    assert without_planned(project, OTHER) == ({"stages": {"mine": {"cmd": "echo mine"}}, "plots": []}, {"mine": 1})


def test_sections_are_known_again_after_the_pipeline_was_deleted(project):
    write(project, RECIPE)
    fresh = contents(project)
    (project / "dvc.yaml").unlink()
    write(project, RECIPE)
    assert contents(project) == fresh


def test_a_copy_of_a_planned_stage_under_another_name_is_the_users(project):
    write(project, RECIPE)
    with modify_yaml(project / "dvc.yaml") as data:
        copy = deepcopy(dict(data["stages"]["tiny-export"], outs=["elsewhere"]))
        data["stages"]["mine"] = copy
    write(project, RECIPE)
    assert without_planned(project, RECIPE)[0]["stages"] == {"mine": copy}


def test_a_crash_between_the_two_files_is_mended_by_planning_again(project, monkeypatch):
    for before in ((), (OTHER,)):
        for after in ((RECIPE,), (RECIPE, OTHER)):
            if before:
                write(project, *before)
            with monkeypatch.context() as patch:
                written = []
                real = dvcfiles.artifacts.write_text

                def crash(path, text, written=written, real=real):
                    if written:
                        raise KeyboardInterrupt
                    written.append(path)
                    real(path, text)

                patch.setattr(dvcfiles.artifacts, "write_text", crash)
                with pytest.raises(KeyboardInterrupt):
                    write(project, RECIPE)
            write(project, *after)
            mended = contents(project)
            for path in files(project):
                path.unlink()
            write(project, *after)
            assert contents(project) == mended
            for path in files(project):
                path.unlink()


@pytest.mark.parametrize(
    ("dvc", "params", "message"),
    [
        (
            "stages:\n  tiny-export:\n    cmd: x\n",
            "",
            r"dvc\.yaml, line 2: the stage 'tiny-export' was written by hand",
        ),
        ("", "a: 1\ntiny-export: 2\n", r"tiny\.yaml, line 2: the section 'tiny-export' was written by hand"),
        (
            "stages:\n  a:\n    cmd: x\n    outs: [artifacts]\n",
            "",
            r"dvc\.yaml, line 2: the output artifacts of 'a' overlaps",
        ),
        (
            "stages:\n  a:\n    cmd: x\n    metrics:\n    - artifacts/tiny/train/x.json: {cache: false}\n",
            "",
            "overlaps",
        ),
        ("stages:\n  a:\n    cmd: x\n    wdir: artifacts\n    outs: [./tiny/export/]\n", "", "overlaps"),
        ("stages:\n  a:\n    foreach: [1]\n    do:\n      cmd: x\n      outs: [artifacts/tiny]\n", "", "overlaps"),
        ("stages:\n  a: [\n", "", r"dvc\.yaml, line \d: not YAML"),
        ("", "a: 1\n b: 2\n", r"tiny\.yaml, line 2: not YAML"),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_written(project, dvc, params, message):
    (project / "params").mkdir()
    (project / "dvc.yaml").write_text(dvc)
    (project / "params/tiny.yaml").write_text(params)
    before = contents(project)
    with pytest.raises(PlanError, match=message):
        write(project, RECIPE)
    assert contents(project) == before
    assert sorted(path.name for path in project.iterdir() if path.name[0] != ".") == ["dvc.yaml", "params"]


def test_a_neighbour_with_a_similar_path_does_not_overlap(project):
    (project / "dvc.yaml").write_text("stages:\n  a:\n    cmd: x\n    outs: [artifacts/tiny/exported]\n")
    write(project, RECIPE)
    assert "a" in without_planned(project, RECIPE)[0]["stages"]


def test_outside_a_dvc_project_the_way_into_one_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"`llmrecipe init \.`"):
        write(tmp_path, RECIPE)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "sub").mkdir()
    with pytest.raises(PlanError, match=f"root is {tmp_path}"):
        write(tmp_path / "sub", RECIPE)
    assert list((tmp_path / "sub").iterdir()) == []


def test_a_recipe_that_was_planned_before_is_known_with_its_stages_and_where_it_was_found(project):
    write(project, RECIPE, OTHER)
    found = dvcfiles.recorded(project)
    assert {name: recipe.reference for name, recipe in found.items()} == {
        "small": "recipes/small.py",
        "other": "recipes/other.py",
    }
    assert set(found["small"].stages) == {stage.name for stage in plan([RECIPE]).stages}
    assert found["small"].sections(project).keys() == found["small"].stages.keys()


def test_a_kept_recipe_stays_as_it_is_written_also_where_the_other_shares_its_stages(project):
    write(project, RECIPE, OTHER)
    kept = dvcfiles.recorded(project)["small"]
    dvcfiles.write(plan([OTHER]), project, references={"other": "recipes/other.py"}, kept=(kept,))
    assert dvcfiles.recorded(project)["small"] == kept
    assert {stage.name for stage in opened(project).index.stages} == {
        stage.name for stage in plan([RECIPE, OTHER]).stages
    }


def test_a_change_to_a_stage_that_a_kept_recipe_shares_is_refused_and_both_are_named(project):
    write(project, RECIPE, OTHER)
    kept, before = dvcfiles.recorded(project)["small"], contents(project)
    changed = evolve(OTHER, models=(evolve(OTHER.models[0], text__shards=9),))
    with pytest.raises(PlanError, match=r"books-prepare would change.*'small' \(recipes/small\.py\).*--remove small"):
        dvcfiles.write(plan([changed]), project, references={"other": "recipes/other.py"}, kept=(kept,))
    assert contents(project) == before


def test_a_project_without_recipes_left_is_one_that_dvc_reads(project):
    write(project, RECIPE)
    dvcfiles.write(plan([]), project, references={})
    assert dvcfiles.recorded(project) == {}
    assert list(opened(project).index.stages) == []
