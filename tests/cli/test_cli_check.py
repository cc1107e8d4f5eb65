import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from answering import times_the_floor
from paths import RECIPES

from llmrecipe.cli.main import main
from llmrecipe.machines import Machines

HEAVY = {"torch", "transformers", "dvc", "nanotron", "llmcompressor", "datatrove", "datasets", "numpy", "pyarrow"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with the project's own recipes, on a machine that suits them."""
    shutil.copytree(RECIPES, tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    return tmp_path


def test_a_recipe_that_can_work_is_summed_up_in_a_line(capsys):
    assert main(["check", "quickstart"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("quickstart: fine. ")
    assert out.count("\n") == 1
    assert "M parameters" in out
    assert "steps of" in out
    assert out.endswith("2 ranks\n")
    assert err == ""


def test_how_a_fine_tuning_learns_is_told(capsys, project):
    recipe = project / "recipes/tuned.py"
    recipe.write_text(
        "from llmrecipe import FineTuned, FineTuning, Recipe, adapter, evolve, measure, task\n"
        "from recipes.quickstart import quickstart\n"
        "def tuned():\n"
        "    base = evolve(quickstart().models[0], name='base')\n"
        "    what = task.Classification(name='tones', train='data/tones.csv')\n"
        "    learns = FineTuning(epochs=1, global_batch_size=8, adapter=adapter.LoRA(rank=1))\n"
        "    model = FineTuned(name='toned', start=base, task=what, training=learns)\n"
        "    return Recipe(name='tuned', models=(model,), measures=(measure.Task(),))\n"
    )
    (project / "data").mkdir()
    (project / "data/tones.csv").touch()
    assert main(["check", "tuned"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"toned: an adapter of \S+( [kM])? parameters to \S+ M parameters, 1 epoch in steps of 8 examples, 1 rank", out
    )


def test_the_size_of_hessians_is_told_before_they_are_gathered(capsys, project):
    recipe = project / "recipes/quickstart.py"
    recipe.write_text(
        recipe.read_text().replace("scheme.W4A16(group_size=64)", "scheme.W4A16(group_size=64), propagate_error=False")
    )
    assert main(["check", "quickstart"]) == 0
    # Of four layers, three inputs that are 128 wide and one of 384: 4 · 4 · (3 · 128² + 384²) bytes.
    assert "small-code-python-stdlib-128: 3 MB of Hessians on disk" in capsys.readouterr().out


def test_the_large_recipe_lacks_nothing_but_its_files(capsys, project):
    assert main(["check", "llama_7b"]) == 1
    path, reason = "llama-7b.models[0].text.source.paths[0]", "no file matches 'data/web/*.parquet'; there is no folder"
    assert capsys.readouterr().err == f"error: {path}: {reason} 'data'\n"
    (project / "data/web").mkdir(parents=True)
    (project / "data/web/0.parquet").touch()
    assert main(["check", "llama_7b"]) == 0
    assert "6.7 B parameters" in capsys.readouterr().out


def test_check_writes_nothing(project):
    before = sorted(project.rglob("*"))
    assert main(["check", "quickstart"]) == 0
    assert sorted(project.rglob("*")) == before


def broken(project):
    text = (project / "recipes/quickstart.py").read_text()
    for pattern, replacement in (
        (r"num_attention_heads=\d+", "num_attention_heads=8"),
        (r"Parallelism\(data=2, ", "Parallelism(data=2, tensor=3, "),
        (r"global_batch_size=\d+", "global_batch_size=31"),
    ):
        text, count = re.subn(pattern, replacement, text)
        assert count == 1
    (project / "recipes/broken.py").write_text(text)
    return "recipes/broken.py:quickstart"


def test_every_violation_is_printed_and_the_status_is_1(capsys, project):
    assert main(["check", broken(project)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert (
        "quickstart.models[0].parallelism.tensor: 3 does not divide num_attention_heads = 8; use 1, 2, 4 or 8" in lines
    )
    assert any(
        line.startswith("quickstart.models[0].training.global_batch_size: 31 is not a multiple of") for line in lines
    )


def test_all_recipes_are_checked_even_after_one_that_is_wrong(capsys, project):
    assert main(["check", "nope", broken(project), "quickstart"]) == 1
    err = capsys.readouterr().err
    assert "recipes/nope.py: no such recipe" in err
    assert "quickstart.models[0].parallelism.tensor" in err


def test_missing_files_are_named_together_with_all_that_is_wrong(capsys, project):
    text = (
        (project / "recipes/quickstart.py")
        .read_text()
        .replace("source.PythonStdlib()", 'source.TextFiles(paths=("a",))')
    )
    (project / "recipes/quickstart.py").write_text(text.replace("seed=7", "seed=-1"))
    for command in ("check", "plan"):
        assert main([command, "quickstart"]) == 1
        assert capsys.readouterr().err.splitlines() == [
            "errors:",
            "quickstart.models[0].training.seed: must be at least 0, got -1",
            "quickstart.models[0].text.source.paths[0]: no file matches 'a'; '.' holds recipes",
        ]


def test_recipes_that_cannot_be_planned_together_are_refused(capsys, project):
    text = (project / "recipes/quickstart.py").read_text()
    (project / "recipes/other.py").write_text(text.replace("seed=7", "seed=8"))
    assert main(["check", "quickstart", "recipes/other.py:quickstart"]) == 1
    assert "training.seed: 7 ≠ 8; give one of them a name of its own" in capsys.readouterr().err
    assert main(["check", "quickstart", "recipes/quickstart.py"]) == 0


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_part_of_a_model_that_no_stage_makes_is_refused_with_those_that_there_are(capsys, project, command):
    path = project / "recipes/quickstart.py"
    taken = 'PretrainedTokenizer(path="artifacts/small-code/tokenizer/tokenizer")'
    text = path.read_text().replace("ByteLevelBPE(vocab_size=2048)", taken)
    path.write_text(text.replace("    ByteLevelBPE,\n", "    PretrainedTokenizer,\n"))
    reason = "reads 'artifacts/small-code/tokenizer/tokenizer', which is not there, and no stage makes it"

    assert main([command, "quickstart"]) == 1

    assert f"{reason}; small-code makes artifacts/small-code/train/checkpoint, " in capsys.readouterr().err


def test_recipes_share_what_they_import(capsys, project):
    (project / "recipes/own.py").write_text(
        "from llmrecipe.recipe.kinds import Cleaner\nfrom llmrecipe.recipe.schema import define\n\n"
        '@define("shout")\nclass Shout(Cleaner):\n    """Loud text."""\n'
    )
    text = (project / "recipes/quickstart.py").read_text().replace("clean.FixUnicode()", "clean.FixUnicode(), Shout()")
    (project / "recipes/one.py").write_text("from own import Shout\n" + text)
    (project / "recipes/two.py").write_text("from own import Shout\n" + text.replace('name="quickstart"', 'name="two"'))
    assert main(["check", "one", "two"]) == 0
    assert main(["plan", "one"]) == 0
    assert main(["plan", "two"]) == 0
    assert capsys.readouterr().err == ""


def test_the_default_machine_of_the_project_is_the_one_that_warnings_are_for(capsys, project):
    (project / "params.yaml").write_text("machine:\n  default:\n    device: cuda\n")
    assert main(["check", "quickstart"]) == 0
    assert capsys.readouterr().err.startswith("warning: machine.device: 'cuda', and this machine has no NVIDIA GPU")


def test_warnings_are_printed_and_do_no_harm(capsys, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert main(["check", "quickstart"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("quickstart: fine.")
    assert err.startswith("warning: quickstart.models[0].parallelism: ")


def test_the_users_own_traceback_is_shown_before_the_message(capsys, project):
    (project / "recipes/bad.py").write_text("def bad():\n    return 1 / 0\n")
    assert main(["check", "bad"]) == 1
    err = capsys.readouterr().err
    assert "    return 1 / 0\n" in err
    assert err.endswith("error: recipes/bad.py: failed with ZeroDivisionError: division by zero\n")


def test_a_stage_without_parameters_says_what_to_do(capsys):
    command = "stage tokenize --name x-tokenize --output artifacts/x/tokenize"
    assert main(command.split()) == 1
    assert capsys.readouterr().err == "error: params.yaml: no such file; run `llmrecipe plan`\n"


@pytest.mark.parametrize(
    "command",
    [
        "",
        "nope",
        "check --nope",
        "stage tokenize --output x",
    ],
)
def test_wrong_usage_has_status_2(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert "usage: llmrecipe" in capsys.readouterr().err


def test_a_stage_gets_what_the_command_line_says(monkeypatch):
    calls = []
    monkeypatch.setattr("llmrecipe.stages.runner.run_stage", lambda *given, **named: calls.append((given, named)))
    command = "stage train --name q-train --output e --params p.yaml"
    assert main(command.split()) == 0
    assert calls == [
        (
            ("train",),
            {
                "name": "q-train",
                "output": Path("e"),
                "params": Path("p.yaml"),
                "chosen": Machines({}, "machine.local.yaml"),
            },
        )
    ]


def test_a_stage_of_no_known_kind_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("x: {}\n")
    assert main(["stage", "nope", "--name", "x", "--output", "x"]) == 1
    assert "no such kind of stage 'nope'" in capsys.readouterr().err


def test_an_interruption_has_status_130(capsys, project):
    (project / "recipes/stop.py").write_text("raise KeyboardInterrupt\n")
    assert main(["check", "stop"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("llmrecipe 0.")


@pytest.mark.parametrize("command", [["check", "quickstart"], ["plan", "quickstart"], ["--help"], ["plan", "--help"]])
def test_no_heavy_library_is_imported(command):
    program = f"""
import json, sys
from llmrecipe.cli.main import main
from llmrecipe.machines import Machines
try:
    status = main({command!r})
except SystemExit as stop:
    status = stop.code
assert status == 0, status
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", [["check", "quickstart"], ["plan", "quickstart"], ["--help"]])
def test_an_answer_costs_little_more_than_what_it_imports(command):
    assert times_the_floor([sys.executable, "-m", "llmrecipe", *command]) < 6
