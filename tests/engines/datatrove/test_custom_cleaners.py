"""A cleaner from a module outside the package cleans like any other, in every process."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from corpora import contents, read_documents, write_jsonl

from llmrecipe import codec, wiring
from llmrecipe.errors import StageError
from llmrecipe.recipe.cleaning import CustomCleaner, FixUnicode
from llmrecipe.recipe.deduplication import ExactDedup
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.sections import PrepareSection
from llmrecipe.stages.runner import run_stage
from llmrecipe.wiring import Wiring

MODULE = '''
from llmrecipe.extend import CustomCleaner, define


@define("{name}")
class Shout(CustomCleaner):
    """In capitals, unless nobody listens."""

    mark: str = "!"

    def clean(self, text: str) -> str | None:
        if "quiet" in text:
            return None
        return text.upper() + self.mark


@define("{name}_broken")
class Broken(CustomCleaner):
    """Nothing that works."""

    answer: str = ""

    def clean(self, text: str) -> str | None:
        return {{"number": 3}}[self.answer]
'''

TEXTS = [f"text {number}" for number in range(20)] + ["a quiet one", "Text 3"]


@pytest.fixture
def shout(tmp_path, monkeypatch):
    """A module next to the recipes, of a name of its own since Python keeps what it has imported."""
    monkeypatch.chdir(tmp_path)
    name = f"shout_{abs(hash(tmp_path)):x}"
    Path("recipes").mkdir()
    Path(f"recipes/{name}.py").write_text(MODULE.format(name=name))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "recipes")])
    # Set by the stage; put back after the test.
    monkeypatch.setenv("PYTHONPATH", "")
    module = importlib.import_module(name)
    sys.path.remove(str(tmp_path / "recipes"))
    return module


def prepared(module, *clean, workers: int = 1) -> Path:
    """The output of the prepare stage, run as DVC does it."""
    write_jsonl(Path("data/a.jsonl"), TEXTS)
    section = PrepareSection(source=JsonlFiles(paths=("data/*.jsonl",)), clean=clean, heldout=Fraction(0.3), shards=2)
    tied = Wiring(inputs={"source0": "data"}, extensions=(f"recipes/{module.__name__}.py",))
    params = {"c-prepare": wiring.written(section, tied), "machine": {"default": {"workers": workers}}}
    Path("params.yaml").write_text(json.dumps(params))
    output = Path(f"artifacts/c{workers}/prepare")
    run_stage("prepare", name="c-prepare", output=output)
    return output


@pytest.mark.slow
def test_a_cleaner_of_a_users_own_runs_in_two_workers_and_is_counted(shout):
    output = prepared(shout, FixUnicode(), shout.Shout(mark="?"), ExactDedup(), workers=2)
    found = [d["text"] for split in ("train", "heldout") for d in read_documents(output / "documents", split)]
    assert sorted(found) == sorted(f"TEXT {number}?" for number in range(20))
    metrics = json.loads((output / "metrics.json").read_text())
    tag = shout.Shout.tag
    assert metrics["dropped"] == {"empty": 0, "fix_unicode": 0, tag: 1, "exact_dedup": 1}
    assert metrics["changed"][tag] == 21
    rows = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]
    assert ("a quiet one", tag) in {(row["text"], row["by"]) for row in rows}
    assert contents(prepared(shout, FixUnicode(), shout.Shout(mark="?"), ExactDedup())) == contents(output)


@pytest.mark.parametrize(
    ("answer", "reason"), [("number", "returned int for data/a.jsonl:1;"), ("", "failed on data/a.jsonl:1: KeyError")]
)
def test_code_that_does_not_work_is_an_error_that_names_it_and_the_document(shout, answer, reason):
    with pytest.raises(StageError, match=rf"{shout.Broken.tag}: Broken\.clean {reason}"):
        prepared(shout, shout.Broken(answer=answer))


def test_its_revision_is_in_its_section(shout):
    assert codec.unstructure(shout.Shout()) == {"type": shout.Shout.tag, "mark": "!", "revision": 1}
    assert isinstance(shout.Shout(), CustomCleaner)
