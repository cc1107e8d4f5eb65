"""A release that can't work is refused where it is written, with what would work."""

from typing import ClassVar

import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import Bert, MaskedLM, Quantized, Release, WordPiece, evolve, gate, measure, scheme
from llmrecipe.extend import CustomScores, define
from llmrecipe.recipe import checks

BASE, W4 = SMALL.models
ENCODER = evolve(
    SMALL_MODEL,
    name="encoder",
    start=Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    tokenizer=WordPiece(vocab_size=512),
    objective=MaskedLM(sequence_length=32),
)
RECOVERY = gate.Recovery(at_least=0.98)


def found(*gates, candidates=(W4, BASE), **changes) -> dict[str, str]:
    """What is wrong, by path below the recipe."""
    asked = evolve(SMALL, release=Release(candidates=candidates, gates=gates), **changes)
    return {each.path.removeprefix("small.release."): each.reason for each in checks.violations(asked)}


def test_a_release_of_models_that_are_compared_by_what_is_measured_is_fine():
    speed = gate.Speed(at_least=10.0, processor="abacus")
    score = gate.Score(number="bits_per_byte", at_most=1.5)
    assert found(RECOVERY, gate.Size(at_most_mb=1.0), score, speed) == {}
    assert found(RECOVERY, candidates=(ENCODER,), models=(ENCODER,), measures=(measure.Perplexity(),)) == {}


def test_a_candidate_is_one_of_the_models_and_is_named_once():
    w8 = Quantized(model=BASE, scheme=scheme.W8A16())
    assert found(RECOVERY, candidates=(w8, W4, W4)) == {
        "candidates[0]": "small-model-w8a16 is not among the models, so it isn't measured; add it to models",
        "candidates[2]": "small-model-w4a16 is candidates[1] again; keep one of them",
    }


def test_a_gate_asks_for_what_the_recipe_measures():
    assert found(
        gate.Recovery(at_least=0.9, measure="perplexit"), gate.Score(number="x", measure="mine", at_least=1.0)
    ) == {
        "gates[0].measure": "'perplexit' is no measure of the recipe; did you mean 'perplexity'? "
        "(known: perplexity, samples)",
        "gates[1].measure": "'mine' is no measure of the recipe; known: perplexity, samples",
    }
    by_samples = (
        gate.Recovery(at_least=0.9, measure="samples"),
        gate.Speed(at_least=1.0, processor="a", measure="samples"),
    )
    assert found(*by_samples) == {
        "gates[0].measure": "'samples' is Samples, which measures no documents one by one, so nothing says how sure a "
        "recovery would be; use gate.Score for a number of it, or use 'perplexity'",
        "gates[1].measure": "'samples' is Samples, whose tokens aren't counted; use 'perplexity'",
    }


@define("copied_of_checks")
class Copied(CustomScores):
    better: ClassVar = {"accuracy": "higher", "edits": "lower"}

    def scores(self, model):
        return iter(())


@define("some_of_checks")
class OfSome(Copied):
    def is_of(self, model):
        return isinstance(model, Quantized)


@define("unsaid_of_checks")
class Unsaid(Copied):
    better: ClassVar = {}


@define("missaid_of_checks")
class Missaid(Copied):
    better: ClassVar = {"accuracy": "more"}


def test_a_recovery_of_another_number_names_it():
    asked = {"measures": (measure.Perplexity(), Copied(name="copied"))}
    masked = {"models": (ENCODER,), "candidates": (ENCODER,)}
    pseudo = {"measures": (measure.Perplexity(), measure.PseudoPerplexity()), **masked}
    for number in ("accuracy", "edits"):
        assert found(gate.Recovery(at_least=0.9, measure="copied", number=number), **asked) == {}
    assert found(gate.Recovery(at_least=0.9, measure="copied"), **asked) == {
        "gates[0].number": "is missing, and 'copied' is Copied; add number='accuracy' or number='edits'"
    }
    assert found(gate.Recovery(at_least=0.9, measure="copied", number="acuracy"), **asked) == {
        "gates[0].number": "'acuracy' is no number that Copied gives of each document; did you mean 'accuracy'? "
        "(known: accuracy, edits)"
    }
    assert found(gate.Recovery(at_least=0.9, number="bits_per_byte"), **asked) == {
        "gates[0].number": "is 'bits_per_byte', and of Perplexity it is the perplexities that a recovery compares; "
        "leave number out, or use gate.Score"
    }
    assert found(gate.Score(measure="copied", number="edit", at_most=1.0), **asked) == {
        "gates[0].number": "'edit' is no number that Copied gives of small-model-w4a16; did you mean 'edits'? "
        "(known: accuracy, edits)"
    }
    by_pseudo = gate.Recovery(at_least=0.9, measure="pseudo_perplexity", number="pseudo_perplexity")
    assert found(by_pseudo, **pseudo) == {}
    assert list(found(evolve(by_pseudo, number=None), **pseudo)) == ["gates[0].number"]


def test_a_measure_has_to_be_taken_of_what_a_gate_looks_at():
    asked = {"measures": (measure.Perplexity(), measure.LayerErrors(), OfSome())}
    worst = gate.Score(measure="layer_errors", number="worst_layer_error_percent", at_most=5.0)
    assert found(worst, candidates=(W4,), **asked) == {}
    assert found(worst, **asked) == {
        "gates[0].measure": f"'layer_errors' isn't taken of {BASE.name}, which the gate looks at; use another"
    }
    # A recovery looks at the first model as well, a candidate or not.
    kept = gate.Recovery(measure="some_of_checks", number="accuracy", at_least=0.9)
    assert list(found(kept, candidates=(W4,), **asked)) == ["gates[0].measure"]


def test_scores_say_which_are_better():
    score = gate.Score(number="perplexity", at_most=9.0)
    for asked, reason in (
        (Unsaid(), 'Unsaid.better names no score; say which are better, better = {"accuracy": "higher"}'),
        (Missaid(), "Missaid.better says 'more' of 'accuracy'; say 'higher' or 'lower'"),
    ):
        wrong = found(score, measures=(measure.Perplexity(), asked))
        assert wrong == {"small.measures[1]": reason}


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({}, "is missing, and so is at_most: say which perplexity passes"),
        ({"at_least": 2.0, "at_most": 1.0}, "2 is more than at_most = 1, so nothing passes"),
    ],
)
def test_a_score_has_a_bound_that_something_can_pass(bounds, reason):
    assert found(gate.Score(number="perplexity", **bounds)) == {"gates[0].at_least": reason}


def test_a_number_that_a_measure_does_not_give_is_refused_if_that_is_known():
    assert found(gate.Score(number="perplexty", at_most=9.0)) == {
        "gates[0].number": "'perplexty' is no number that Perplexity gives of small-model-w4a16; did you mean "
        "'perplexity'? (known: perplexity, bits_per_byte)"
    }
    masked = {"candidates": (ENCODER,), "models": (ENCODER,), "measures": (measure.Perplexity(),)}
    assert found(gate.Score(number="masked_accuracy_percent", at_least=9.0), **masked) == {}
    assert list(found(gate.Score(number="perplexity", at_most=9.0), **masked)) == ["gates[0].number"]


def test_models_that_predict_other_tokens_have_no_recovery():
    other = evolve(ENCODER, name="other", objective__mask_rate=0.3)
    (reason,) = found(RECOVERY, candidates=(other,), models=(ENCODER, other), measures=(measure.Perplexity(),)).values()
    assert reason.startswith("other and encoder, the first of the models, don't predict the same tokens: ")
    assert reason.endswith("; release one by gate.Score")
