"""What a student can't learn, from which teacher, and what of a training transformers' Trainer can't do."""

import attrs
import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import (
    Anomalies,
    Bert,
    ByteLevelBPE,
    CausalLM,
    Corpus,
    Distilled,
    Dropout,
    Llama,
    MaskedLM,
    Parallelism,
    PretrainedModel,
    Quantized,
    Recipe,
    Steps,
    Tokens,
    WordPiece,
    distil,
    evolve,
    measure,
    optimizer,
    scheme,
    source,
)
from llmrecipe.recipe import checks
from llmrecipe.sections import DistilSection

SMALLER = Llama(hidden_size=32, num_layers=1, num_attention_heads=4, num_key_value_heads=2)
TAUGHT = Distilled(name="taught", student=SMALLER, teacher=SMALL_MODEL, training=SMALL_MODEL.training)
ENCODER = evolve(
    SMALL_MODEL,
    name="encoder",
    start=Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    tokenizer=WordPiece(vocab_size=512),
    objective=MaskedLM(sequence_length=32),
)
TEXT = Corpus(name="files", source=source.TextFiles(paths=("data/*.txt",)))


def found(model: Distilled, **changes) -> dict[str, str]:
    """What is wrong with the model, by path below it."""
    with attrs.validators.disabled():
        model = evolve(model, **changes)
        recipe = evolve(SMALL, models=(model,), measures=())
    return {each.path.removeprefix("small.models[0]."): each.reason for each in checks.violations(recipe)}


def pretrained(name: str, **facts) -> PretrainedModel:
    network, objective = facts.get("network", SMALLER), facts.get("objective", CausalLM(sequence_length=32))
    return PretrainedModel(name=name, path=f"models/{name}", network=network, objective=objective)


def test_a_network_a_model_and_a_rounded_model_can_learn():
    rounded = Quantized(model=SMALL_MODEL, scheme=scheme.W4A16(group_size=32))
    assert found(TAUGHT) == {}
    assert found(TAUGHT, student=evolve(SMALL_MODEL, name="other", start=SMALLER)) == {}
    assert found(TAUGHT, student=rounded, loss=distil.JensenShannon(temperature=2.0)) == {}
    assert evolve(TAUGHT, student=rounded).is_rounded
    assert not TAUGHT.is_rounded


def test_what_a_student_is_comes_from_it_or_from_its_teacher():
    other = evolve(SMALL_MODEL, name="other", start=SMALLER, text=TEXT, objective__sequence_length=16)
    assert (TAUGHT.network, TAUGHT.parents) == (SMALLER, (SMALL_MODEL,))
    assert (TAUGHT.objective, TAUGHT.vocabulary) == (SMALL_MODEL.objective, SMALL_MODEL.vocabulary)
    assert TAUGHT.training_text == SMALL_MODEL.text
    from_model = evolve(TAUGHT, student=other)
    assert (from_model.network, from_model.parents) == (SMALLER, (other, SMALL_MODEL))
    assert from_model.objective.sequence_length == 16
    assert from_model.training_text == TEXT
    assert evolve(from_model, text=SMALL_MODEL.text).training_text == SMALL_MODEL.text


def test_a_model_is_not_its_own_teacher():
    assert found(TAUGHT, student=SMALL_MODEL) == {
        "student": "small-model is the teacher as well, of which it has nothing to learn; use a smaller network, or "
        "what was made of it, such as Quantized(model=small-model, …)"
    }


def test_a_teacher_reads_the_tokens_of_its_student():
    other = evolve(SMALL_MODEL, name="other", tokenizer=ByteLevelBPE(vocab_size=300))
    assert found(TAUGHT, student=other) == {
        "teacher": "small-model reads the tokens of stdlib-bpe-512, and the student other those of stdlib-bpe-300: "
        "what the one predicts means nothing to the other; use a teacher and a student with one tokenizer"
    }
    # Two that exist already may have the same files.
    assert found(TAUGHT, student=pretrained("a"), teacher=pretrained("b"), text=TEXT) == {}
    assert list(found(TAUGHT, student=pretrained("a"))) == ["teacher"]


def test_both_predict_alike():
    assert list(found(TAUGHT, teacher=ENCODER)) == ["teacher.objective"]
    masked = pretrained("masked", network=ENCODER.start, objective=ENCODER.objective)
    assert found(TAUGHT, student=pretrained("a"), teacher=masked, text=TEXT) == {
        "teacher": "masked predicts masked tokens, and the student each token from those before it; use a teacher "
        "trained by CausalLM"
    }


def test_a_teacher_reads_sequences_as_long_as_its_students():
    short = pretrained("short", network=evolve(SMALLER, max_position_embeddings=32))
    long = pretrained("long", objective=CausalLM(sequence_length=64))
    assert found(TAUGHT, student=long, teacher=short, text=TEXT) == {
        "teacher": "short reads at most 32 tokens (max_position_embeddings), and the student 64 (sequence_length); use "
        "a teacher that reads as many, or a student of shorter sequences"
    }


def test_models_that_learned_elsewhere_need_a_text():
    assert found(TAUGHT, student=pretrained("a"), teacher=pretrained("b")) == {
        "text": "is missing, and a and b learned elsewhere, from a text that isn't here; give it, text=Corpus(…)"
    }


BEYOND = {
    "training.optimizer": {"training__optimizer": optimizer.Muon(learning_rate=1e-3)},
    "training.dropout": {"training__dropout": Dropout(residual=0.1)},
    "training.z_loss": {"training__z_loss": 1e-4},
    "training.parameters": {"training__parameters": "head"},
    "training.precision": {"training__precision": "float8"},
    "training.select": {"training__select": "best"},
    "training.keep_every": {"training__keep_every": Steps(5)},
    "training.anomalies.action": {"training__anomalies": Anomalies(action="skip")},
    "training.anomalies.spike_sigmas": {"training__anomalies": Anomalies(spike_sigmas=6.0)},
    "parallelism.tensor": {"parallelism": Parallelism(tensor=2)},
    "parallelism.pipeline": {"parallelism": Parallelism(pipeline=2), "student__num_layers": 2},
    "parallelism.zero_stage": {"parallelism": Parallelism(data=2, zero_stage=1)},
    "parallelism.recompute_activations": {"parallelism": Parallelism(recompute_activations=True)},
}


@pytest.mark.parametrize("path", BEYOND)
def test_what_the_trainer_cannot_do_is_refused_in_a_recipe_and_in_a_section(path):
    changes = BEYOND[path]
    assert list(found(TAUGHT, **changes)) == [path]
    model = evolve(TAUGHT, **changes)
    section = DistilSection(
        network=model.network,
        loss=model.loss,
        hard_loss_weight=0.0,
        training=model.training,
        parallelism=model.parallelism,
    )
    assert [each.path for each in checks.section_violations(section, "a")] == [f"a.{path}"]


def test_ranks_share_what_is_not_quantized():
    shared, rounded = Parallelism(data=2, zero_stage=3), Quantized(model=SMALL_MODEL, scheme=scheme.FP8())
    assert found(TAUGHT, parallelism=shared) == {}
    for role in ("student", "teacher"):
        other = {} if role == "student" else {"student": evolve(SMALL_MODEL, name="other", start=SMALLER)}
        reasons = found(TAUGHT, parallelism=shared, **other, **{role: rounded})
        assert list(reasons) == ["parallelism.zero_stage"]
        assert f"{rounded.name} is quantized" in reasons["parallelism.zero_stage"]
    # A teacher whose predictions are stored isn't there.
    stored = {"teacher": rounded, "teacher_logits": distil.Stored(top_k=8), "training__duration": Steps(10)}
    assert found(TAUGHT, parallelism=shared, **stored) == {}
    # What nanotron trains is shared in another way.
    assert found(evolve(SMALL_MODEL, name="trained"), parallelism=shared) == {
        "parallelism.zero_stage": "3, which shares weights among replicas, is for distillations; use tensor and "
        "pipeline, which share those of a replica, and zero_stage = 1"
    }


def test_a_run_of_a_student_obeys_the_rules_of_any_run():
    assert list(found(TAUGHT, training__global_batch_size=5, parallelism__data=2)) == ["training.global_batch_size"]
    assert list(found(TAUGHT, training__duration=Steps(0))) == ["training.duration"]
    assert list(found(TAUGHT, student__num_attention_heads=3)) == ["student.hidden_size", "student.num_key_value_heads"]
    assert list(found(TAUGHT, hard_loss_weight=1.0)) == ["hard_loss_weight"]
    assert list(found(TAUGHT, loss=distil.ForwardKL(), hidden_states=distil.HiddenStates())) == []
    hidden = evolve(TAUGHT, hidden_states=distil.HiddenStates())
    assert found(hidden, hidden_states__weight=-1.0) == {
        "hidden_states.weight": "must be greater than 0, got -1.0",
    }


def test_what_can_not_be_stored_of_a_teacher_is_refused():
    stored = evolve(TAUGHT, teacher_logits=distil.Stored(top_k=8), training__duration=Steps(10))
    assert found(stored) == {}
    assert list(found(stored, teacher_logits__top_k=0)) == ["teacher_logits.top_k"]
    assert found(stored, teacher_logits__top_k=513) == {
        "teacher_logits.top_k": "513 of a vocabulary of 512; use at most that"
    }
    assert found(stored, loss=distil.ReverseKL(temperature=2.0)) == {
        "loss.temperature": "2 is for all logits of a teacher, of which the likeliest alone are stored; use 1, or "
        "leave teacher_logits out"
    }
    assert list(found(stored, hidden_states=distil.HiddenStates())) == ["hidden_states"]
    assert found(stored, training__duration=Tokens(10_000)) == {
        "training.duration": "Tokens(…) doesn't say how many sequences the teacher predicts before its text is there; "
        "use Steps(…), or leave teacher_logits out"
    }
    other = evolve(SMALL_MODEL, name="other", start=SMALLER, objective__sequence_length=16)
    assert found(stored, student=other) == {
        "teacher_logits": "the student has an objective of its own, and what is stored is what small-model predicts by "
        "that of small-model; leave it out, so that the teacher is asked"
    }
    elsewhere = {"student": pretrained("a"), "teacher": pretrained("b"), "text": TEXT}
    assert found(stored, **elsewhere) == {
        "teacher_logits": "the student has a tokenizer of its own, though its tokens may be the same, and what is "
        "stored is what b predicts by that of b; leave it out, so that the teacher is asked"
    }
    assert list(found(stored, teacher__name="t" * 120, text=evolve(TEXT, name="x" * 120))) == ["teacher_logits"]


def test_all_that_is_wrong_is_said_at_once():
    wrong = found(
        TAUGHT,
        student=SMALL_MODEL,
        training__z_loss=1.0,
        training__precision="float8",
        parallelism=Parallelism(tensor=2),
    )
    assert list(wrong) == ["student", "training.z_loss", "training.precision", "parallelism.tensor"]


def test_a_student_is_quantized_once():
    rounded = Quantized(model=SMALL_MODEL, scheme=scheme.FP8())
    taught = evolve(TAUGHT, student=rounded)
    recipe = Recipe(
        name="a", models=(taught, Quantized(model=taught, scheme=scheme.FP8())), measures=(measure.Perplexity(),)
    )
    assert [str(each) for each in checks.violations(recipe)] == [
        "a.models[1].model: taught is Distilled, and a model is quantized once; quantize small-model"
    ]
