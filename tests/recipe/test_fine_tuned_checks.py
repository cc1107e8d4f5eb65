"""What a recipe is refused for that fine-tunes a model, and what of it is planned."""

from pathlib import Path

import attrs
import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import (
    Bert,
    Corpus,
    Distilled,
    Epochs,
    FineTuned,
    FineTuning,
    Fraction,
    Machine,
    MaskedLM,
    ModernBert,
    Parallelism,
    PretrainedModel,
    Pruned,
    Quantized,
    Recipe,
    Release,
    Steps,
    Trained,
    adapter,
    augment,
    evolve,
    gate,
    measure,
    memory,
    optimizer,
    preflight,
    prune,
    schedule,
    scheme,
    source,
    task,
)
from llmrecipe.machines import Machines
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks

ENCODER = PretrainedModel(
    name="encoder",
    path="models/encoder",
    network=Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    objective=MaskedLM(sequence_length=64),
)
NAMES = task.NamedEntities(name="names", train="data/train.txt", validation="data/dev.txt", test="data/test.txt")
TUNED = FineTuned(name="tuned", start=ENCODER, task=NAMES)


def recipe(model, *measures):
    return Recipe(name="small", models=(model,), measures=measures or (measure.Task(),))


def found(model, *measures):
    violations = checks.violations(recipe(model, *measures))
    return {each.path.removeprefix("small.").removeprefix("models[0]."): each.reason for each in violations}


def test_a_recipe_that_is_right_is_taken():
    assert found(TUNED) == {}
    assert found(evolve(TUNED, parallelism=Parallelism(data=2, micro_batch_size=8, zero_stage=3))) == {}


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"start": SMALL_MODEL}, "start", "Llama reads a word before what comes after it, which names depend on"),
        ({"task__max_length": 513}, "task.max_length", "513, and encoder reads at most 512 tokens"),
        ({"task__test": "data/train.txt"}, "task.test", "'data/train.txt' is the file of train as well"),
        ({"task__test": "./data/train.txt"}, "task.test", "'data/train.txt' is the file of train as well"),
        ({"task__test": "data/dev.txt"}, "task.test", "'data/dev.txt' is the file of validation as well"),
        ({"task__test": Fraction(0.0)}, "task.test", "leaves it or the training examples empty"),
        ({"task__test": Fraction(0.5), "task__validation": Fraction(0.5)}, "task.validation", "leave nothing to learn"),
        ({"task__tags_field": "tokens"}, "task.tags_field", "'tokens' is words_field as well"),
        ({"task__name": "a b"}, "task.name", "use 'a-b'"),
        ({"task__train": ""}, "task.train", "must not be empty"),
        ({"training__optimizer": optimizer.Muon(learning_rate=1.0)}, "training.optimizer", "Muon is for models that"),
        (
            {"training__adapter": adapter.LoRA(layers=("query", "v_proj"))},
            "training.adapter.layers[1]",
            "'v_proj' matches no layer; the first is bert.encoder.layer.0.attention.self.query, and names end in "
            "query, key, value, dense",
        ),
        (
            {"training__adapter": adapter.DoRA(rank=65)},
            "training.adapter.rank",
            "65, and bert.encoder.layer.0.attention.self.query has 64 rows and 64 columns, so no more of it can "
            "differ; use at most 64",
        ),
        ({"training__epochs": 0.0}, "training.epochs", "must be greater than 0"),
        ({"training__layer_decay": 1.5}, "training.layer_decay", "must be at most 1"),
        ({"training__average_decay": 1.0}, "training.average_decay", "less than 1"),
        ({"training__global_batch_size": 12}, "training.global_batch_size", "is not a multiple of data × micro"),
        ({"training__schedule": schedule.Linear(warmup=Fraction(1.0))}, "training.schedule.warmup", "is the whole run"),
        ({"parallelism": Parallelism(tensor=2, micro_batch_size=8)}, "parallelism.tensor", "each computes all of them"),
        ({"parallelism": Parallelism(zero_stage=1, micro_batch_size=8)}, "parallelism.zero_stage", "use 3"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_with_what_would(changes, path, reason):
    with attrs.validators.disabled():
        changed = evolve(TUNED, **changes)
    refused = found(changed)
    assert reason in refused[path]
    assert len(refused) == 1


def test_what_has_zeros_learns_by_no_adapter():
    sparse = Pruned(model=ENCODER, method=prune.Magnitude(sparsity=0.5))
    assert found(evolve(TUNED, start=sparse)) == {}
    refused = found(evolve(TUNED, start=sparse, training__adapter=adapter.LoRA()))
    assert refused.keys() == {"training.adapter"}
    assert "encoder-sparse50 has zeros, which an adapter fills when it is merged" in refused["training.adapter"]


def test_an_adapter_of_a_network_that_names_no_layers_is_of_all(monkeypatch):
    monkeypatch.setattr(Bert, "quantized_layers", {})
    assert found(evolve(TUNED, training__adapter=adapter.LoRA())) == {}
    some = evolve(TUNED, training__adapter=adapter.LoRA(layers=("query",)))
    assert "Bert names no layers; define its inner_layers" in found(some)["training.adapter.layers"]


def test_an_adapter_is_left_beside_the_model_if_it_is_kept():
    def outs(**changes):
        model = evolve(TUNED, training__adapter=adapter.LoRA(**changes))
        return next(stage.outs for stage in plan([recipe(model)]).stages if stage.name == "tuned-finetune")

    assert outs() == ("model", "curves.csv", "validation.csv")
    assert outs(keep=True) == ("model", "adapter", "curves.csv", "validation.csv")


def test_of_an_adapter_gradients_and_the_optimizer_take_little():
    """By hand: 4 bytes of each weight, and of those of the adapter five times: a gradient, two means, the best."""
    network, training = ENCODER.network, FineTuning(adapter=adapter.DoRA())
    weights, small = network.num_parameters(0), training.adapter.num_parameters(network)

    def refused(training, size):
        machine = Machine(device="cpu", memory_gb=size / 1e9)
        return memory.fine_tuning_refusal(network, training, TUNED.parallelism, machine)

    needs = 4 * (weights + 5 * small)
    assert refused(training, needs) is None
    assert f"of an adapter of {small:,} beside them" in refused(training, needs - 1)
    assert refused(FineTuning(), 4 * 5 * weights) is None
    assert "use a smaller model, an adapter," in refused(FineTuning(), 4 * 5 * weights - 1)


PAIRS = task.Embeddings(name="pairs", train="data/pairs.jsonl")
NEAR = evolve(TUNED, name="near", task=PAIRS)


def test_encoders_and_decoders_learn_vectors_by_their_own_pooling():
    assert found(NEAR) == found(evolve(NEAR, start=SMALL_MODEL)) == {}
    assert [PAIRS.pooling(model.network) for model in (ENCODER, SMALL_MODEL)] == ["mean", "last"]


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"parallelism": Parallelism(data=2, micro_batch_size=1)}, "parallelism.micro_batch_size", "use more, such as"),
        ({"task__train": "data/pairs.txt"}, "task.train", "ends in none of '.jsonl', '.csv', '.tsv', '.tab'"),
        ({"task__positive_field": "query"}, "task.positive_field", "'query' is query_field as well"),
        ({"task__negative_field": "query"}, "task.negative_field", "'query' is query_field as well"),
        ({"task__negative_field": ""}, "task.negative_field", "must not be empty"),
        ({"task__temperature": 0.0}, "task.temperature", "must be between 0.001 and 1,000"),
        (
            {"training__class_weights": "balanced"},
            "training.class_weights",
            "is of no class: it is a score, a text or a vector",
        ),
    ],
    ids=str,
)
def test_pairs_that_teach_nothing_are_refused_with_what_would(changes, path, reason):
    with attrs.validators.disabled():
        changed = evolve(NEAR, **changes)
    refused = found(changed)
    assert reason in refused[path]
    assert len(refused) == 1


def test_a_pair_alone_learns_from_its_negative():
    alone = evolve(NEAR, parallelism=Parallelism(micro_batch_size=1), task__negative_field="negative")
    assert found(alone) == {}


def test_types_of_tokens_are_for_networks_that_have_them():
    cased = evolve(TUNED, task__case_as_token_types=True)
    assert found(cased) == {}
    assert cased.network.type_vocab_size == 4
    other = evolve(
        cased, start=evolve(ENCODER, network=ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4))
    )
    assert "ModernBert has no token types" in found(other)["task.case_as_token_types"]


def test_a_score_has_no_classes_to_balance():
    scores = task.Classification(name="scores", train="data/a.csv", answer="score")
    model = evolve(TUNED, task=scores, training=FineTuning(class_weights="balanced"))
    assert "of no class" in found(model)["training.class_weights"]


def test_what_is_rounded_is_not_fine_tuned():
    rounded = Quantized(model=ENCODER, scheme=scheme.W8A16(), text=SMALL_MODEL.text)
    assert "its weights are rounded" in found(evolve(TUNED, start=rounded))["start"]


TEXT = Corpus(name="more", source=source.TextFiles(paths=("data/more.txt",)))


def test_what_has_a_task_is_not_trained_on_text_again():
    again = Trained(
        name="again", start=TUNED, text=TEXT, objective=MaskedLM(sequence_length=64), training=SMALL_MODEL.training
    )
    assert "tuned has learned names, and predicts no text any more" in found(again, measure.Perplexity())["start"]


def test_what_has_a_task_neither_teaches_nor_is_taught():
    training = evolve(SMALL_MODEL.training, duration=Epochs(1.0))
    taught = Distilled(name="taught", student=ENCODER, teacher=TUNED, text=TEXT, training=training)
    assert "tuned has learned names" in found(taught, measure.Perplexity())["teacher"]
    learner = evolve(taught, student=TUNED, teacher=ENCODER)
    assert "tuned has learned names" in found(learner, measure.Perplexity())["student"]


def test_what_has_a_task_writes_no_text():
    writer = FineTuned(name="writer", start=SMALL_MODEL, task=task.Classification(name="c", train="data/c.csv"))
    corpus = evolve(TEXT, augment=(augment.Paraphrase(model=writer),))
    refused = checks.violations(evolve(SMALL, models=(evolve(SMALL_MODEL, name="other", text=corpus),)))
    assert any("writer has learned c" in each.reason and each.path.endswith(".model") for each in refused)


def test_a_task_has_to_be_measured():
    refused = found(TUNED, measure.Perplexity(text=TEXT))
    assert "hold no Task, which says how well tuned does what it was taught; add measure.Task()" in refused["measures"]
    assert "all models have forgotten that for a task; remove it" in refused["measures[0]"]


def test_a_measure_of_tasks_needs_one():
    refused = checks.violations(evolve(SMALL, measures=(*SMALL.measures, measure.Task())))
    assert ["none is FineTuned; remove it, or add one" in each.reason for each in refused] == [True]


CHATS = task.Instructions(name="chats", train="data/chats.jsonl", template="plain", tests_field="tests")
WRITER = FineTuned(name="writer", start=SMALL_MODEL, task=CHATS)


def test_answers_are_written_by_decoders():
    assert found(WRITER) == {}
    assert "Bert reads a token before it predicts it, so it can't write" in found(evolve(TUNED, task=CHATS))["start"]


def test_what_learned_from_chats_predicts_text_still():
    assert WRITER.predicts_text
    assert not TUNED.predicts_text
    assert found(WRITER, measure.Task(), measure.Perplexity(text=TEXT)) == {}
    again = Trained(
        name="again",
        start=WRITER,
        text=SMALL_MODEL.text,
        objective=SMALL_MODEL.objective,
        training=SMALL_MODEL.training,
    )
    assert found(again, measure.Perplexity()) == {}
    assert found(Pruned(model=WRITER, method=prune.Layers(num_layers=1), text=TEXT), measure.Task()) == {}


def test_a_tokenizer_trained_here_has_no_chat_template_of_its_own():
    own = evolve(WRITER, task__template="own")
    assert "has none; use 'plain'" in found(own)["task.template"]


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"train": "data/chats.csv"}, "task.train", "'data/chats.csv' ends in another than '.jsonl'"),
        ({"tests_field": "messages"}, "task.tests_field", "'messages' is messages_field as well"),
        ({"max_length": 10**6}, "task.max_length", "(max_position_embeddings)"),
    ],
)
def test_what_chats_cannot_be(changes, path, said):
    assert said in found(evolve(WRITER, task=evolve(CHATS, **changes)))[path]


def test_what_predicts_no_text_learns_from_no_chats():
    vectors = FineTuned(name="vectors", start=SMALL_MODEL, task=task.Embeddings(name="e", train="data/e.csv"))
    assert "vectors has learned e, and predicts no text any more" in found(evolve(WRITER, start=vectors))["start"]


def test_what_is_trained_again_has_no_chat_template_any_more():
    again = Trained(
        name="again",
        start=WRITER,
        text=SMALL_MODEL.text,
        objective=SMALL_MODEL.objective,
        training=SMALL_MODEL.training,
    )
    own = evolve(CHATS, name="more", template="own")
    assert found(FineTuned(name="second", start=WRITER, task=own)) == {}
    assert "has none; use 'plain'" in found(FineTuned(name="second", start=again, task=own))["task.template"]


def test_a_distilled_writer_writes():
    training = evolve(SMALL_MODEL.training, duration=Epochs(1.0))
    small = Pruned(model=WRITER, method=prune.Layers(num_layers=1), text=TEXT)
    healed = Distilled(name="healed", student=small, teacher=WRITER, text=TEXT, training=training)
    assert healed.task == CHATS
    both = Recipe(name="small", models=(WRITER, healed), measures=(measure.Task(), measure.Perplexity(text=TEXT)))
    release = Release(candidates=(healed,), gates=(gate.Recovery(measure="task", number="rougeL", at_least=0.5),))
    assert checks.violations(evolve(both, release=release)) == []


@pytest.mark.parametrize(
    ("measured", "number", "known"),
    [
        (measure.Task(), "pass_at_1", False),
        (measure.Task(run_code=True), "pass_at_1", True),
        (measure.Task(run_code=True), "pass_at_5", False),
        (measure.Task(run_code=True, samples=5), "pass_at_5", True),
    ],
)
def test_a_gate_knows_which_numbers_programs_have(measured, number, known):
    release = Release(candidates=(WRITER,), gates=(gate.Score(measure="task", number=number, at_least=0.1),))
    violations = checks.violations(evolve(recipe(WRITER, measured), release=release))
    assert (violations == []) is known


def test_an_answer_has_to_have_room():
    positions = SMALL_MODEL.network.max_position_embeddings
    refused = found(WRITER, measure.Task(max_new_tokens=positions))["measures[0].max_new_tokens"]
    assert f"reads at most {positions} tokens" in refused
    assert found(WRITER, measure.Task(max_new_tokens=positions - 1)) == {}


def test_programs_are_run_beside_models_that_write_none():
    likes = FineTuned(name="likes", start=WRITER, task=task.Preferences(name="p", train="data/p.jsonl"))
    both = Recipe(name="small", models=(WRITER, likes), measures=(measure.Task(run_code=True),))
    assert checks.violations(both) == []
    assert "no model writes programs" in found(likes, measure.Task(run_code=True))["measures[0].run_code"]


def test_several_answers_are_for_programs_that_are_run():
    assert "use run_code=True, or 1" in found(WRITER, measure.Task(samples=5))["measures[0].samples"]
    assert found(WRITER, measure.Task(samples=5, run_code=True)) == {}
    untested = evolve(WRITER, task__tests_field=None)
    refused = found(untested, measure.Task(run_code=True))["measures[0].run_code"]
    assert "nothing tests what writer writes; give its Instructions a tests_field" in refused


def test_measures_are_of_the_models_that_they_fit():
    both = Recipe(
        name="both",
        models=(TUNED, SMALL_MODEL),
        measures=(measure.Task(), measure.Perplexity()),
    )
    assert checks.violations(both) == []
    names = [stage.name for stage in plan([both]).stages]
    assert "tuned-task" in names
    assert "small-model-perplexity" in names
    assert "tuned-perplexity" not in names
    assert "small-model-task" not in names


def test_examples_are_read_once_for_all_models_and_what_becomes_of_them():
    other = evolve(TUNED, name="other", training__seed=7)
    rounded = Quantized(model=TUNED, scheme=scheme.W8A16(), text=TEXT)
    stages = {stage.name: stage for stage in plan([evolve(recipe(TUNED), models=(TUNED, other, rounded))]).stages}
    assert [name for name in stages if name.endswith("-examples")] == ["names-examples"]
    made = "artifacts/names/examples/examples"
    for name in ("tuned-finetune", "other-finetune", "tuned-task", "other-task", "tuned-w8a16-task"):
        assert stages[name].inputs["examples"] == made
    assert stages["names-examples"].inputs == {
        "train": "data/train.txt",
        "validation": "data/dev.txt",
        "test": "data/test.txt",
    }


def test_where_examples_come_from_is_nothing_of_what_is_learned():
    def section(model):
        (found,) = (stage.section for stage in plan([recipe(model)]).stages if stage.kind == "finetune")
        return found

    moved = evolve(TUNED, task__name="others", task__train="data/b.txt", task__test=Fraction(0.2), task__seed=9)
    assert section(moved) == section(TUNED)
    assert section(evolve(TUNED, task__max_length=64)) != section(TUNED)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("data/none.txt", "there is no file 'data/none.txt'; 'data' holds train.txt"),
        ("../train.txt", "leads out of the project"),
        ("https://host/train.txt", "is a URL, and examples are files of the project"),
    ],
)
def test_files_of_examples_have_to_be_there(tmp_path, file, reason):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("a O\n")
    what = task.NamedEntities(name="n", train="data/train.txt", validation=file)
    refused = preflight.violations(recipe(evolve(TUNED, task=what)), tmp_path)
    (said,) = [each for each in refused if ".task." in each.path]
    assert said.path == "small.models[0].task.validation"
    assert reason in said.reason


def gated(*gates):
    rounded = Quantized(model=TUNED, scheme=scheme.W8A16(), text=TEXT)
    release = Release(candidates=(rounded,), gates=gates)
    whole = Recipe(name="small", models=(TUNED, rounded), measures=(measure.Task(),), release=release)
    return [each.reason for each in checks.violations(whole)]


def test_a_recovery_is_of_one_task():
    other = evolve(TUNED, name="other", task__name="others", task__train="data/b.txt")
    release = Release(candidates=(other,), gates=(gate.Recovery(at_least=0.9, measure="task", number="entity_f1"),))
    whole = Recipe(name="small", models=(TUNED, other), measures=(measure.Task(),), release=release)
    (said,) = checks.violations(whole)
    assert said.path == "small.release.gates[0].measure"
    assert "other has learned others, and tuned, the first of the models, names" in said.reason


def test_what_has_a_task_is_cut_no_smaller():
    writer = FineTuned(name="writer", start=SMALL_MODEL, task=task.Classification(name="c", train="data/c.csv"))
    cut = Pruned(model=writer, method=prune.Layers(num_layers=1))
    assert "prune what it was made of, and fine-tune what comes of that" in found(cut)["method"]
    assert found(Pruned(model=writer, method=prune.Wanda(sparsity=0.5))) == {}


def test_texts_are_in_tables_or_json_lines():
    what = task.Classification(name="c", train="data/a.txt", test="data/b.csv")
    refused = found(evolve(TUNED, task=what))
    assert "'data/a.txt' ends in none of '.jsonl', '.csv', '.tsv', '.tab'" in refused["task.train"]


def test_two_texts_need_two_types():
    what = task.Classification(name="c", train="data/a.csv", second_text_field="b")
    assert found(evolve(TUNED, task=what)) == {}
    single = evolve(TUNED, task=what, start=evolve(ENCODER, network=evolve(ENCODER.network, type_vocab_size=1)))
    assert "the network has one type of tokens" in found(single)["task.second_text_field"]


ASKED = task.QuestionAnswering(name="asked", train="data/a.json", test="data/b.jsonl", max_length=384, doc_stride=128)


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"task__train": "data/a.csv"}, "task.train", "'data/a.csv' ends in none of '.json', '.jsonl'"),
        ({"task__question_field": "context"}, "task.question_field", "'context' is context_field as well"),
        ({"task__answers_field": "question"}, "task.answers_field", "'question' is question_field as well"),
        ({"task__doc_stride": 129}, "task.doc_stride", "use at most 128, a third of max_length"),
        ({"task__doc_stride": -1}, "task.doc_stride", "must be between 0 and 1,000,000"),
        ({"task__max_answer_length": 384}, "task.max_answer_length", "max_length = 384 tokens are read at once"),
        ({"start": SMALL_MODEL, "task__max_length": 96}, "start", "Llama reads a word before what comes after it"),
        ({"start__network__type_vocab_size": 1}, "start", "has one type of tokens (type_vocab_size)"),
        ({"training__class_weights": "balanced"}, "training.class_weights", "is of no class"),
    ],
    ids=str,
)
def test_questions_that_cannot_be_learned_are_refused_with_what_would(changes, path, reason):
    with attrs.validators.disabled():
        model = evolve(TUNED, task=ASKED)
        assert found(model) == {}
        changed = evolve(model, **changes)
    refused = found(changed)
    assert reason in refused[path]


def test_an_encoder_without_types_learns_questions():
    other = evolve(ENCODER, network=ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4))
    assert found(evolve(TUNED, task=ASKED, start=other)) == {}


def test_gates_ask_for_numbers_of_questions_where_some_have_no_answer():
    def refused(number, **changes):
        tuned = evolve(TUNED, task=evolve(ASKED, **changes))
        release = Release(candidates=(tuned,), gates=(gate.Score(measure="task", number=number, at_least=0.5),))
        return checks.violations(Recipe(name="r", models=(tuned,), measures=(measure.Task(),), release=release))

    assert refused("f1") == refused("exact_match") == refused("no_answer_accuracy", unanswerable=True) == []
    assert "is no number that Task gives of tuned" in refused("no_answer_accuracy")[0].reason


def test_a_model_that_is_larger_than_the_machine_is_refused():
    machines = Machines({"default": {"device": "cpu", "memory_gb": 0.001}}, "here")
    (refused,), here = memory.too_large(recipe(TUNED), machines, Path())
    assert refused.path == "small.models[0].start"
    assert "memory_gb = 1" in refused.reason
    assert here == []


def test_gates_ask_for_numbers_of_a_task():
    assert gated(gate.Recovery(at_least=0.98, measure="task", number="entity_f1")) == []
    assert gated(gate.Score(measure="task", number="word_macro_f1", at_least=0.8)) == []
    (said,) = gated(gate.Recovery(at_least=0.98, measure="task"))
    assert "is missing, and 'task' is Task; add number='entity_f1' or number='word_micro_f1'" in said
    (said,) = gated(gate.Recovery(at_least=0.98, measure="task", number="entity_macro_f1"))
    assert "is no number that Task gives of each document" in said
    (said,) = gated(gate.Score(measure="task", number="accuracy", at_least=0.8))
    assert "is no number that Task gives of tuned-w8a16" in said


def test_a_short_run_has_no_warm_up():
    assert FineTuning(epochs=1).of(20).warmup_steps(1) == 0
    assert FineTuning(epochs=4).of(40).warmup_steps(1) == 1


def test_a_run_is_as_long_as_its_epochs():
    training = FineTuning(epochs=2.5, global_batch_size=8)
    run = training.of(20)
    assert run.duration == Steps(8)
    assert run.validation_interval == training.steps_per_epoch(20) == 3


PREFERRING = FineTuned(
    name="preferring", start=SMALL_MODEL, task=task.Preferences(name="pairs", train="data/p.jsonl", template="plain")
)


@pytest.mark.parametrize(
    ("changes", "path", "reason"),
    [
        ({"task__train": "data/p.csv"}, "task.train", "'data/p.csv' ends in another than '.jsonl'"),
        ({"start": ENCODER}, "start", "Bert reads a token before it predicts it, so it can't write; use a decoder"),
        ({"task__template": "own"}, "task.template", "which is trained here, has none; use 'plain'"),
        ({"task__rejected_field": "chosen"}, "task.rejected_field", "'chosen' is chosen_field as well"),
        ({"task__chosen_field": "messages"}, "task.chosen_field", "'messages' is messages_field as well"),
        ({"task__beta": 0.0}, "task.beta", "must be greater than 0"),
    ],
    ids=str,
)
def test_what_pairs_cannot_be(changes, path, reason):
    with attrs.validators.disabled():
        changed = evolve(PREFERRING, **changes)
    refused = found(changed)
    assert reason in refused[path]
    assert len(refused) == 1


def test_what_has_learned_from_chats_has_a_template():
    own = evolve(PREFERRING, task__template="own", start=WRITER)
    assert found(own) == {}
    assert found(evolve(own, start=Pruned(model=WRITER, method=prune.Wanda(sparsity=0.5)))) == {}


def test_what_prefers_predicts_text_still():
    assert found(PREFERRING, measure.Task(), measure.Perplexity(text=TEXT)) == {}


def test_a_preference_gates_by_its_accuracy():
    rounded = Quantized(model=PREFERRING, scheme=scheme.W8A16(), text=SMALL_MODEL.text)
    for number, refusals in (("accuracy", 0), ("margin", 1)):
        wanted = gate.Recovery(at_least=0.9, measure="task", number=number)
        whole = Recipe(
            name="small",
            models=(PREFERRING, rounded),
            measures=(measure.Task(), measure.Perplexity()),
            release=Release(candidates=(rounded,), gates=(wanted,)),
        )
        assert len(checks.violations(whole)) == refusals
