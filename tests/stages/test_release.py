"""A release is the first candidate that passes all gates, as it is; none is an error that says what was found."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import tiny_model

from llmrecipe import artifacts, cards, times
from llmrecipe.cards import ModelCard
from llmrecipe.errors import StageError
from llmrecipe.recipe import gate
from llmrecipe.recipe.kinds import Gate
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.sections import ReleaseSection
from llmrecipe.stages import release

CARD = ModelCard(
    network=Llama(hidden_size=64, num_layers=1, num_attention_heads=2, num_key_value_heads=2),
    objective=CausalLM(sequence_length=32),
    vocab_size=320,
    end_of_text_id=0,
    tokenizer="a" * 64,
    made_by="quantize",
    parents={"model": "b" * 64},
    notes=("was pruned by hand",),
)

COMPARISON: dict[str, Any] = {
    "base": {"size_mb": 4.0, "perplexity": 20.0, "mine": {"accuracy": 0.9}},
    "w8": {
        "size_mb": 2.0,
        "perplexity": 20.2,
        "recovery_percent": 99.0,
        "recovery_low_percent": 98.2,
        "recovery_high_percent": 99.8,
        "recovery_documents": 60,
        "mine": {"accuracy": 0.89},
    },
    "w4": {
        "size_mb": 1.0,
        "perplexity": 20.4,
        "recovery_percent": 98.1,
        "recovery_low_percent": 97.2,
        "recovery_high_percent": 99.0,
        "recovery_documents": 60,
        "mine": {"accuracy": 0.8},
    },
}


@pytest.fixture
def released(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = {"comparison": Path("artifacts/mine/report/metrics.json")}
    inputs["comparison"].parent.mkdir(parents=True)
    artifacts.write_json(inputs["comparison"], COMPARISON)
    for name in COMPARISON:
        folder = inputs[f"{name}.model"] = Path(f"artifacts/{name}/quantize/model")
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(name)
        (folder / "tokenizer.json").write_text("{}")
        cards.write(folder, CARD)
        artifacts.seal(folder, "model")
        inputs[f"{name}.perplexity"] = Path(f"artifacts/{name}/perplexity/metrics.json")
        inputs[f"{name}.perplexity"].parent.mkdir()
        artifacts.write_json(inputs[f"{name}.perplexity"], {"perplexity": 20.0})

    def run(*gates: Gate, candidates: tuple[str, ...] = ("w4", "w8", "base")) -> Path:
        section = ReleaseSection(candidates=candidates, reference="base", gates=gates)
        output = tmp_path / f"release{len(list(tmp_path.iterdir()))}"
        release.run(tiny_model.stage_context(section, inputs, output))
        return output

    return run


def name_of(output: Path) -> str:
    found = json.loads((output / "metrics.json").read_text())["released"]
    assert (output / "model/model.safetensors").read_text() == found
    return found


@pytest.mark.parametrize(
    ("bound", "expected"),
    [(0.97, "w4"), (0.972, "w4"), (0.98, "w8"), (0.9821, "base"), (1.0, "base")],
)
def test_a_recovery_passes_by_the_lower_end_of_its_interval(released, bound, expected):
    # Of w4, 98.1 % would pass at 0.98; of the first model, everything is left.
    assert name_of(released(gate.Recovery(at_least=bound))) == expected


def test_all_gates_have_to_be_passed_and_the_first_candidate_that_does_leaves(released):
    sizes = gate.Size(at_most_mb=2.0)
    assert name_of(released(sizes)) == "w4"
    assert name_of(released(sizes, candidates=("base", "w8", "w4"))) == "w8"
    assert name_of(released(gate.Recovery(at_least=0.98), sizes)) == "w8"
    assert name_of(released(gate.Score(measure="mine", number="accuracy", at_least=0.85))) == "w8"
    assert name_of(released(gate.Score(number="perplexity", at_least=20.0, at_most=20.3))) == "w8"


def test_the_copy_is_the_model_and_its_card_says_what_it_was(released):
    output = released(gate.Size(at_most_mb=2.0))
    artifacts.verify(output / "model", "model")
    source = Path("artifacts/w4/quantize/model")
    card = cards.read(output / "model", ModelCard)
    parents = {"model": artifacts.file_digest(source / artifacts.MANIFEST)}
    assert card == attrs.evolve(CARD, made_by="release", parents=parents)
    assert (output / "model/tokenizer.json").read_text() == "{}"


def test_what_every_gate_found_of_every_candidate_is_kept(released):
    output = released(gate.Recovery(at_least=0.98), gate.Size(at_most_mb=9.0))
    found = json.loads((output / "metrics.json").read_text())["candidates"]
    assert found["w4"][0] == {
        "gate": "recovery by perplexity of at least 98 %",
        "found": "98.10 % (97.20 to 99.00 % of 60 documents)",
        "passes": False,
    }
    assert {name: [each["passes"] for each in rows] for name, rows in found.items()} == {
        "w4": [False, True],
        "w8": [True, True],
        "base": [True, True],
    }


def test_if_none_passes_the_error_holds_the_whole_table(released):
    with pytest.raises(StageError) as caught:
        released(gate.Recovery(at_least=0.99), gate.Size(at_most_mb=1.5), candidates=("w4", "w8"))
    assert str(caught.value).splitlines() == [
        "no candidate passes all gates:",
        "  w4: recovery by perplexity of at least 99 %: fails with 98.10 % (97.20 to 99.00 % of 60 documents)",
        "  w4: at most 1.5 MB: passes with 1.00 MB",
        "  w8: recovery by perplexity of at least 99 %: fails with 99.00 % (98.20 to 99.80 % of 60 documents)",
        "  w8: at most 1.5 MB: fails with 2.00 MB",
        "lower a gate, or add a candidate that keeps more",
    ]


def test_what_was_not_measured_is_no_reason_to_release(released):
    few = {**COMPARISON["w4"], "recovery_by": "token", "recovery_documents": 12}
    del few["recovery_low_percent"], few["recovery_high_percent"]
    artifacts.write_json(Path("artifacts/mine/report/metrics.json"), {**COMPARISON, "w4": few})
    with pytest.raises(
        StageError, match=r"w4: gate.Recovery needs at least 30 held-out documents.* read 12; raise its max"
    ):
        released(gate.Recovery(at_least=0.5))
    with pytest.raises(StageError, match="base: mine gives no number 'acuracy'; did you mean 'accuracy'"):
        released(gate.Score(measure="mine", number="acuracy", at_least=0.5), candidates=("base",))


def test_a_recovery_of_a_score_passes_by_its_own_interval(released):
    kept = {"recovery_percent": 98.5, "recovery_low_percent": 97.0, "recovery_high_percent": 99.9}
    few = {"recovery_percent": 98.5, "recovery_documents": 12}
    # Grouped under the measure's name, or a model's own.
    grouped = COMPARISON["w4"] | {
        "mine": {"accuracy": 0.8, "recoveries": {"accuracy": kept | {"recovery_documents": 50}}}
    }
    recoveries = {"accuracy": few, "f1": few | {"recovery_documents": 40}, "bleu": {"recovery_percent": 98.5}}
    own = COMPARISON["w8"] | {"mine": 0.5, "recoveries": recoveries}
    artifacts.write_json(Path("artifacts/mine/report/metrics.json"), {**COMPARISON, "w4": grouped, "w8": own})
    for bound, expected in ((0.97, "w4"), (0.971, "base")):
        asked = gate.Recovery(at_least=bound, measure="mine", number="accuracy")
        output = released(asked, candidates=("w4", "base"))
        assert name_of(output) == expected
        found = json.loads((output / "metrics.json").read_text())["candidates"]["w4"]
        assert found[0]["gate"] == f"recovery of accuracy by mine of at least {100 * bound:g} %"
        assert found[0]["found"] == "98.50 % (97.00 to 99.90 % of 50 documents)"
    for number, reason in (
        (
            "accuracy",
            "needs at least 30 documents, the same of both models, and mine has scored 12; have it score more",
        ),
        ("f1", "f1 is 0 for so many documents of mine .* nothing divides by 0; have it score more, or use gate.Score"),
        ("bleu", "needs the same documents of both models, and mine has scored more of one than of the other"),
        ("recall", "mine gives no recovery of recall of it"),
    ):
        with pytest.raises(StageError, match=f"w8: .*{reason}"):
            released(gate.Recovery(at_least=0.5, measure="mine", number=number), candidates=("w8",))


@pytest.mark.parametrize(("documents", "passes"), [(40, True), (29, False)])
def test_what_makes_no_mistake_passes_whatever_is_asked_for(released, documents, passes):
    perfect = {"mistakes": {"recovery_is_unbounded": True, "recovery_documents": documents}}
    comparison = COMPARISON | {"w4": COMPARISON["w4"] | {"mine": 0.0, "recoveries": perfect}}
    artifacts.write_json(Path("artifacts/mine/report/metrics.json"), comparison)
    asked = gate.Recovery(at_least=1.5, measure="mine", number="mistakes")
    if not passes:
        with pytest.raises(StageError, match=r"w4: gate.Recovery needs at least 30 documents.* has scored 29"):
            released(asked, candidates=("w4",))
        return
    output = released(asked, candidates=("w4",))
    found = json.loads((output / "metrics.json").read_text())["candidates"]["w4"]
    assert found[0]["found"] == "mistakes is 0 in all 40 documents, and less isn't possible"


def test_a_speed_is_that_of_the_run_on_this_machine_and_the_card_says_so(released):
    asked = gate.Speed(at_least=100.0, processor="2 cores of abacus")
    with pytest.raises(StageError, match=r"w4: .*dvc repro --force --single-item w4-perplexity"):
        released(asked, candidates=("w4",))
    for name, speed in (("w4", 90.0), ("w8", 120.0)):
        measured = {"tokens_per_second": speed, "processor": "2 cores of abacus"}
        times.write(f"{name}-perplexity", Path(f"artifacts/{name}/perplexity"), measured, {})
    output = released(asked, candidates=("w4", "w8"))
    assert name_of(output) == "w8"
    assert cards.read(output / "model", ModelCard).notes == (
        "was pruned by hand",
        "it was released because it reads 120 tokens/s on 2 cores of abacus, which another run measures otherwise",
    )
    with pytest.raises(StageError, match=r"'3 cores of abacus'.* ran on '2 cores of abacus'; run it there"):
        released(attrs.evolve(asked, processor="3 cores of abacus"), candidates=("w8",))
