"""A release that can't work is refused where it is written, with what would work."""

import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import Bert, MaskedLM, Quantized, Release, WordPiece, evolve, gate, measure, scheme
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
        "gates[0].measure": "'samples' is Samples, and a recovery is a ratio of perplexities; use 'perplexity'",
        "gates[1].measure": "'samples' is Samples, whose tokens aren't counted; use 'perplexity'",
    }


def test_a_recovery_is_by_a_perplexity():
    masked = {"models": (ENCODER,), "candidates": (ENCODER,)}
    measures = (measure.Perplexity(), measure.PseudoPerplexity())
    assert found(gate.Recovery(at_least=0.9, measure="pseudo_perplexity"), measures=measures, **masked) == {
        "gates[0].measure": "'pseudo_perplexity' is PseudoPerplexity, and a recovery is a ratio of perplexities; use "
        "'perplexity'"
    }


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
