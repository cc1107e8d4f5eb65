"""An operator, a cleaner and a measure of the user's own, next to their recipes, planned and run by real DVC."""

import json
import subprocess

import pytest
from dvc_project import create, environment, repro, run
from paths import SUPPORT
from tiny_recipe import RECIPE

from llmrecipe.cli.main import main

OWN = '''
import shutil
from typing import ClassVar

import attrs

from llmrecipe.extend import CustomCleaner, CustomMeasure, CustomScores, Derived, Draft, Products, Section
from llmrecipe.extend import define, plans


@define("shout")
class Shout(CustomCleaner):
    """Text in capitals; documents with many words go."""

    max_words: int = 1000

    def clean(self, text: str) -> str | None:
        return text.upper() if len(text.split()) <= self.max_words else None


@define("largest_weight")
class LargestWeight(CustomMeasure):
    """The largest absolute weight, and how many texts it has seen."""

    def measure(self, model):
        largest = max(weight.abs().max().item() for weight in model.transformers_model.parameters())
        return {"largest_weight": largest, "capitals": sum(text.isupper() for text in model.texts(limit=3))}


@define("losses")
class Losses(CustomScores):
    """The loss of each sequence."""

    better: ClassVar = {"loss": "lower"}

    def scores(self, model):
        import torch

        for sequence in model.sequences(40):
            tokens = torch.from_numpy(sequence)[None]
            with torch.no_grad():
                yield {"loss": model.transformers_model(input_ids=tokens, labels=tokens).loss}


@define("scaled")
class Scaled(Derived):
    """A model whose weights are multiplied by a number."""

    by: float = 2.0

    @property
    def suffix(self) -> str:
        return "scaled"


@define("scale")
class ScaleSection(Section):
    """A model to one with larger weights."""

    module: ClassVar[str] = "scaling"

    by: float
    revision: int = 1


@plans(Scaled)
def scaled(draft: Draft, value: Scaled) -> Products:
    stage = draft.stage(
        owner=value.name,
        section=ScaleSection(by=value.by),
        inputs={"model": draft.need(value.model).product("model")},
        outs=("model",),
    )
    return Products({"model": stage.product("model")})
'''

SCALING = """
import shutil

from safetensors.torch import load_file, save_file

from llmrecipe import artifacts, cards
from llmrecipe.recipe.evolve import evolve


def run(context):
    source, directory = context.inputs["model"], context.output / "model"
    shutil.copytree(source, directory)
    weights = {name: weight * context.section.by for name, weight in load_file(source / "model.safetensors").items()}
    (directory / "model.safetensors").unlink()
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / artifacts.MANIFEST).unlink()
    card = cards.read(source, cards.ModelCard)
    cards.write(directory, evolve(card, made_by="scale", parents=context.parents))
    artifacts.seal(directory, "model")
"""

LARGER = '''
from own import LargestWeight, Losses, Scaled, Shout
from tiny_recipe import BASE

from llmrecipe import Fraction, Quantized, Recipe, Release, evolve, gate, measure, scheme


def larger() -> Recipe:
    """A chain with an operator of one's own in the middle."""
    base = evolve(BASE, text__name="loud", text__clean=(Shout(),), text__heldout=Fraction(0.2), name="loud")
    scaled = Scaled(model=base)
    small = Quantized(model=scaled, scheme=scheme.W8A16(), calibration_samples=4)
    kept = gate.Recovery(measure="losses", number="loss", at_least=1.01)
    return Recipe(
        models=(base, scaled, small),
        measures=(measure.Perplexity(max_tokens=64), LargestWeight(), Losses()),
        release=Release(candidates=(small, base), gates=(kept,)),
    )
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    project = create(tmp_path / "project", RECIPE)
    recipes = project / "recipes"
    recipes.mkdir()
    tiny = (SUPPORT / "tiny_recipe.py").read_text()
    for name, text in (("own", OWN), ("scaling", SCALING), ("larger", LARGER), ("tiny_recipe", tiny)):
        (recipes / f"{name}.py").write_text(text)
    monkeypatch.chdir(project)
    return project


@pytest.mark.slow
def test_words_of_a_module_next_to_the_recipes_are_planned_run_measured_compared_and_released(project):
    said = run(project, "llmrecipe", "run", "larger")
    assert "Running stage 'loud-scaled-scale':" in said

    measured = {
        name: json.loads((project / f"artifacts/{name}/largest_weight/metrics.json").read_text())
        for name in ("loud", "loud-scaled")
    }
    assert measured["loud-scaled"]["largest_weight"] == pytest.approx(2 * measured["loud"]["largest_weight"])
    assert measured["loud"]["capitals"] == 3
    report = json.loads((project / "artifacts/larger/report/metrics.json").read_text())
    assert {"loud", "loud-scaled", "loud-scaled-w8a16"} <= report.keys()
    assert report["loud-scaled"]["largest_weight"] == measured["loud-scaled"]["largest_weight"]

    # After so few steps larger weights are only surer of what has been learned.
    kept = report["loud-scaled-w8a16"]["recoveries"]["loss"]
    assert kept["recovery_documents"] == 40
    assert 101 < kept["recovery_low_percent"] < kept["recovery_percent"]
    losses = {name: json.loads((project / f"artifacts/{name}/losses/scores.json").read_text()) for name in report}
    means = {name: sum(each["loss"]["documents"]) / 40 for name, each in losses.items()}
    assert kept["recovery_percent"] == pytest.approx(100 * means["loud"] / means["loud-scaled-w8a16"])
    name = "loud-scaled-w8a16"
    assert (
        f"\nreleased: {name}, artifacts/larger/release/model\n  recovery of loss by losses of at least 101 %:" in said
    )
    folders = (project / "artifacts" / each / "model" for each in ("larger/release", f"{name}/quantize"))
    released, made = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert released == made

    # Its code is no part of its identity; its revision is.
    own = project / "recipes" / "own.py"
    own.write_text(own.read_text().replace("revision: int = 1", "revision: int = 2"))
    run(project, "llmrecipe", "plan", "larger")
    assert repro(project, "repro", "larger-report")[0] == "loud-scaled-scale"


def test_a_word_of_a_recipe_s_own_file_is_refused_with_the_way_out(project, capsys):
    (project / "recipes" / "alone.py").write_text(
        f"{OWN}\n{LARGER.replace('from own import LargestWeight, Losses, Scaled, Shout', '')}"
    )
    assert main(["plan", "recipes/alone.py:larger", "--only"]) == 1
    assert "move it to a module next to it" in capsys.readouterr().err


def test_a_stage_whose_module_is_gone_says_which(project):
    run(project, "llmrecipe", "plan", "larger", "--only")
    (project / "recipes" / "own.py").unlink()
    done = subprocess.run(
        ["dvc", "repro", "loud-prepare"], cwd=project, env=environment(project), capture_output=True, text=True
    )
    assert "recipes/own.py: no such file" in done.stdout + done.stderr
