"""`llmrecipe report` of several recipes, of commits and of experiments."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmrecipe import artifacts, dvccache, times
from llmrecipe.cli.main import main

RECIPE = """
from llmrecipe import *

def RECIPE_NAME():
    base = Trained(
        name="MODEL", start=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
        text=Corpus(name="c", source=source.PythonStdlib()), tokenizer=ByteLevelBPE(vocab_size=300),
        objective=CausalLM(sequence_length=32),
        training=Training(duration=Steps(9), global_batch_size=4, optimizer=optimizer.AdamW(learning_rate=1e-3)),
    )
    return Recipe(models=(base,))
"""


def git(*arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test")
    return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dvccache, "cache", lambda: tmp_path / "cache")
    Path(".dvc").mkdir()
    Path("recipes").mkdir()
    git("init", "--quiet")
    Path(".gitignore").write_text("/artifacts/\n/cache/\n/.llmrecipe/\n")


def write_recipe(name: str, model: str, **changes: str) -> None:
    text = RECIPE.replace("RECIPE_NAME", name).replace("MODEL", model)
    for field, value in changes.items():
        text = re.sub(rf"\b{field}=[^,)]+", f"{field}={value}", text)
    Path(f"recipes/{name}.py").write_text(text)


def cached(data: bytes, suffix: str = "") -> str:
    md5 = hashlib.md5(data).hexdigest() + suffix
    path = Path("cache/files/md5") / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return md5


def plan_and_run(numbers: dict[str, dict[str, Any]], *names: str, released: str = "") -> None:
    """Plan the recipes, and leave what DVC would after stages that measured these numbers."""
    assert main(["plan", *names]) == 0
    locked = {}
    for name, entry in yaml.safe_load(Path("dvc.yaml").read_text())["stages"].items():
        ((file, _),) = entry["params"][0].items()
        section = yaml.safe_load(Path(file).read_text())[name]
        locked[name] = {"params": {file: {name: section}}, "outs": []}
        owner, _, kind = name.rpartition("-")
        folder = Path("artifacts") / owner / kind
        if kind == "train":
            (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
            (folder / "checkpoint/weights").write_text(json.dumps(numbers[owner]))
            artifacts.seal(folder / "checkpoint", "checkpoint")
            listed = [
                {"md5": cached(each.read_bytes()), "relpath": each.name} for each in (folder / "checkpoint").iterdir()
            ]
            path, md5 = str(folder / "checkpoint"), cached(json.dumps(listed).encode(), ".dir")
            locked[name]["outs"].append({"path": path, "md5": md5})
            write_metrics(locked[name], folder, {"loss": 2.5, "validation_loss": 2.75})
            times.write(name, folder, {"seconds": numbers[owner]["seconds"], "tokens_per_second": 1000.0}, {})
        elif kind == "release" and released:
            verdicts = [{"gate": "at most 9 MB", "found": "6.71 MB", "passes": True}]
            write_metrics(locked[name], folder, {"released": released, "candidates": {released: verdicts}})
        elif kind == "release":
            del locked[name]
        elif kind == "report":
            write_metrics(locked[name], folder, {m: {"perplexity": n["perplexity"]} for m, n in numbers.items()})
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))


def write_metrics(locked: dict[str, Any], folder: Path, data: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(data))
    md5 = cached((folder / "metrics.json").read_bytes())
    locked["outs"].append({"path": str(folder / "metrics.json"), "md5": md5})


def shown(capsys, *references: str) -> list[list[list[str]]]:
    """The cells of the tables, and the notes behind them."""
    capsys.readouterr()
    assert main(["report", *references]) == 0
    parts = capsys.readouterr().out.rstrip().split("\n\n")
    return [
        [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in part.splitlines()] for part in parts
    ]


HEAD = ["what came of it", "perplexity", "training loss", "validation loss", "training", "speed"]
REST = ["2.5000", "2.7500"]


def test_two_recipes_are_compared_model_for_model_whatever_their_names(capsys):
    write_recipe("one", "small")
    write_recipe("two", "large", hidden_size="128")
    plan_and_run(
        {"small": {"perplexity": 30.0, "seconds": 12}, "large": {"perplexity": 20.0, "seconds": 99}}, "one", "two"
    )
    differing, came, *rest = shown(capsys, "one", "two")
    assert differing[0] == ["what differs", "one", "two"]
    assert ["train.network.hidden_size", "64", "128"] in differing
    assert [row for row in differing if "." in row[0]] == [["train.network.hidden_size", "64", "128"]]
    assert ["train", "small-train", "large-train"] in differing
    assert came[0] == HEAD
    assert ["one: small", "30.00", *REST, "12 s", "1,000 tokens/s"] in came
    assert ["two: large", "20.00", *REST, "99 s", "1,000 tokens/s"] in came
    assert rest == []


def test_states_of_a_recipe_are_compared_and_no_file_is_touched(capsys):
    write_recipe("one", "small")
    plan_and_run({"small": {"perplexity": 30.0, "seconds": 12}}, "one")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    git("tag", "paper")
    write_recipe("one", "small", learning_rate="3e-4")
    plan_and_run({"small": {"perplexity": 25.0, "seconds": 15}}, "one")
    git("commit", "--quiet", "--all", "-m", "second")
    before = git("status", "--porcelain"), Path("dvc.lock").read_bytes()
    for first, second in (("one@paper", "one@HEAD"), ("one@HEAD~1", "one"), ("one@paper", None)):
        differing, came = shown(capsys, *filter(None, [first, second]))
        assert differing[0] == ["what differs", first, second or "one"]
        assert differing[1:] == [["small-train.training.optimizer.learning_rate", "0.001", "0.0003"]]
        assert [row[1] for row in came] == ["perplexity", "30.00", "25.00"]
        assert [row[-2] for row in came[1:]] == ["12 s", "15 s"]
    assert (git("status", "--porcelain"), Path("dvc.lock").read_bytes()) == before


def test_what_was_released_is_said_of_each_state(capsys):
    write_recipe("one", "small")
    recipe = Path("recipes/one.py")
    release = "release=Release(candidates=(base,), gates=(gate.Size(at_most_mb=9.0),))"
    recipe.write_text(recipe.read_text().replace("models=(base,)", f"models=(base,), {release}"))
    plan_and_run({"small": {"perplexity": 30.0, "seconds": 12}}, "one", released="small")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    plan_and_run({"small": {"perplexity": 30.0, "seconds": 12}}, "one")
    *_, released, missing = shown(capsys, "one@HEAD", "one")
    assert released == [["one@HEAD: released small"], ["at most 9 MB: 6.71 MB"]]
    assert missing == [["one: none of its models was released"]]


def test_an_experiment_is_found_by_the_name_that_dvc_gave_it(capsys):
    write_recipe("one", "small")
    plan_and_run({"small": {"perplexity": 30.0, "seconds": 12}}, "one")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    commit = git("rev-parse", "HEAD")
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/molten-dods", commit)
    assert shown(capsys, "one@molten-dods")[0] == [["nothing differs between one@molten-dods and one"]]


def test_what_is_not_there_is_said(capsys):
    write_recipe("one", "small")
    plan_and_run({"small": {"perplexity": 30.0, "seconds": 12}}, "one")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    for folder in (".llmrecipe", "cache", "artifacts"):
        Path(folder).rename(f"gone-{folder.strip('.')}")
    write_recipe("one", "small", num_layers="2")
    assert main(["plan", "one"]) == 0
    notes = "\n".join(line[0] for part in shown(capsys, "one@HEAD", "one")[1:] for line in part)
    assert "one@HEAD: its numbers are neither in DVC's cache nor here" in notes
    assert "one@HEAD: small-train wasn't run on this machine, so its time isn't known" in notes
    assert "one: planned otherwise since it was run, and `dvc repro` would run again: small-train" in notes


def test_a_recipe_that_is_not_as_it_was_planned_is_said_to_be_so(capsys):
    write_recipe("one", "small")
    write_recipe("two", "large")
    plan_and_run({name: {"perplexity": 30.0, "seconds": 12} for name in ("small", "large")}, "one", "two")
    write_recipe("one", "small", learning_rate="3e-4")
    Path("recipes/two.py").unlink()
    capsys.readouterr()
    assert main(["report", "one", "two"]) == 0
    warnings = capsys.readouterr().err
    assert "small-train.training.optimizer.learning_rate: 0.001 is planned, and the recipe says 0.0003" in warnings
    assert "warning: recipes/two.py:two: recipes/two.py: no such file" in warnings


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        (("one@nowhere",), "nowhere: git knows no such commit, branch or tag, and DVC no such experiment"),
        (("one", "other"), "other: no recipe of that name is planned; known: one"),
        (("other@HEAD",), "other@HEAD: no recipe of that name is planned at HEAD"),
        (("one@--help",), "--help: git knows no such commit"),
        (("one@",), "one@: no commit or experiment is named after `@`; the last commit is one@HEAD"),
    ],
)
def test_what_cant_be_compared_is_refused(references, reason, capsys):
    write_recipe("one", "small")
    plan_and_run({"small": {"perplexity": 30.0, "seconds": 12}}, "one")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    assert main(["report", *references]) == 1
    assert f"error: {reason}" in capsys.readouterr().err
