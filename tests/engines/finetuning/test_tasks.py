"""A run that learns a task: what it computes, that it goes on with the same bytes, that ranks learn what one does."""

import math
import signal

import pytest
import tiny_distillation
import tiny_model
import tiny_tasks
import torch
from safetensors.torch import load_file
from tiny_tasks import CHATS, CHOICES, PAIRS, QUESTIONS, TONES, TUNING, killed, make, section, tuned
from torch.nn import functional
from transformers import AutoModelForTokenClassification, ModernBertConfig, ModernBertForMaskedLM

from llmrecipe import ModernBert, Steps, adapter, artifacts, cards, evolve
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.zeros import refuse_lost
from llmrecipe.engines.finetuning.learning import zeros_of
from llmrecipe.engines.finetuning.tasks.launcher import model_of
from llmrecipe.engines.finetuning.tasks.stopping import best_step, last_step
from llmrecipe.engines.finetuning.tasks.trainer import AVERAGE, BEST
from llmrecipe.engines.models import folders
from llmrecipe.engines.runs.checkpoints import checkpoints
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.heads import card_of, with_head, work_of
from llmrecipe.engines.tasks.items import steps as read
from llmrecipe.errors import StageError
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.schedule import Constant

pytestmark = pytest.mark.slow

LAST = 12
"""The last step: two epochs of 48 sentences, 8 a step."""

FILES = ("weights", "optimizer", "average", "best")

EXACT = evolve(TUNING, dropout=0.0, average_decay=None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_tasks.stage_inputs(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def straight(made, tmp_path_factory):
    return tuned(section(), made, tmp_path_factory.mktemp("straight"), ranks=True)


def column(run, name):
    return [row[name] for row in run.metrics if name in row]


def digests(run):
    folder = run.state.checkpoint(run.metrics[-1]["step"])
    return {file: artifacts.file_digest(folder / f"{file}.safetensors") for file in FILES}


def test_it_learns(straight):
    losses, scores = column(straight, "loss"), column(straight, "validation_score")
    assert len(losses) == LAST
    assert losses[-1] < 0.7 * losses[0]
    assert len(scores) == 2


def test_killed_at_any_moment_it_ends_with_the_same_bytes(made, tmp_path, straight):
    """One run, killed again each time that it has been continued, with dropout, a mean of weights and a best step."""
    moments = [
        ("open", r"\.2\.tmp/\.manifest.json.tmp", []),
        ("os.rename", r"/checkpoints/4$", [2]),
        # After an epoch, whose weights were the best.
        ("os.rename", r"/checkpoints/8$", [4, 6]),
        ("shutil.rmtree", r"/checkpoints/8$", [8, 10, 12]),
    ]
    for event, path, left in moments:
        assert killed(section(), made, tmp_path, event, path) == -signal.SIGKILL
        (folder,) = tmp_path.glob("*/checkpoints")
        assert sorted(step for step, _ in checkpoints(folder)) == left
    resumed = tuned(section(), made, tmp_path, checkpoint_interval=2)
    assert resumed.metrics == straight.metrics
    assert digests(resumed) == digests(straight)


def test_killed_after_an_epoch_it_goes_on_from_there_however_seldom_the_machine_keeps_checkpoints(
    made, tmp_path, straight
):
    seldom = {"checkpoint_interval": 100}
    assert killed(section(), made, tmp_path, "os.rename", r"/checkpoints/12$", **seldom) == -signal.SIGKILL
    (folder,) = tmp_path.glob("*/checkpoints")
    assert [step for step, _ in checkpoints(folder)] == [6]
    assert digests(tuned(section(), made, tmp_path, **seldom)) == digests(straight)


@pytest.mark.parametrize("kind", [adapter.LoRA, adapter.DoRA])
def test_an_adapter_killed_on_the_way_ends_with_the_same_bytes(made, tmp_path, kind):
    training = evolve(TUNING, adapter=kind(rank=4, dropout=0.2), optimizer=AdamW(learning_rate=2e-2))
    whole = tuned(section(training=training), made, tmp_path / "whole")
    scratch = tmp_path / "killed"
    for event, path in (("open", r"\.2\.tmp/\.manifest.json.tmp"), ("os.rename", r"/checkpoints/8$")):
        assert killed(section(training=training), made, scratch, event, path) == -signal.SIGKILL
    resumed = tuned(section(training=training), made, scratch, checkpoint_interval=2)
    assert resumed.metrics == whole.metrics
    assert digests(resumed) == digests(whole)


def plain_losses(made, training, steps):
    """Of a plain loop with torch's AdamW over the same items."""
    what = tiny_tasks.NAMES
    known = examples.card_of(made["examples"])
    work = work_of(
        card_of(what, known.labels, cards.read(made["start"], ModelCard).network), folders.load_tokenizer(made["start"])
    )
    items, _ = work.items(examples.read(made["examples"], "train"))
    model = with_head(made["start"], work, seed=training.seed, dropout=0.0).train()
    decayed = [weight for weight in model.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    stepper = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for step, chosen in zip(range(steps), read(items, 8, training.seed, by_length=True, first=0), strict=False):
        total, count = 0.0, 0
        for item in chosen:
            logits = model(input_ids=torch.tensor([item.input_ids])).logits[0]
            labels = torch.tensor(item.labels)
            total = total + functional.cross_entropy(logits, labels, reduction="sum")
            count += int((labels >= 0).sum())
        loss = total / count
        stepper.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in stepper.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 2)
        stepper.step()
        losses.append(loss.item())
    return losses


def test_losses_are_those_of_a_plain_loop(made, tmp_path):
    run = tuned(section(training=EXACT), made, tmp_path)
    assert column(run, "loss")[:6] == pytest.approx(plain_losses(made, EXACT, 6), rel=1e-4)


def test_two_ranks_learn_what_one_does(made, tmp_path):
    alone = tuned(section(training=EXACT), made, tmp_path / "alone")
    together = tuned(section(training=EXACT, data=2), made, tmp_path / "together", ranks=True)
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=1e-4)
    assert column(together, "validation_score") == pytest.approx(column(alone, "validation_score"))


def test_ranks_that_share_weights_learn_what_one_does(made, tmp_path):
    alone = tuned(section(), made, tmp_path / "alone")
    what = section(data=2, zero_stage=3, training=EXACT)
    together = tuned(what, made, tmp_path / "together", ranks=True)
    exact = tuned(section(training=EXACT), made, tmp_path / "exact")
    assert column(together, "loss") == pytest.approx(column(exact, "loss"), rel=1e-4)
    averaged = tuned(section(data=2, zero_stage=3), made, tmp_path / "averaged", ranks=True)
    shapes = [
        {name: tensor.shape for name, tensor in load_file(run.state.checkpoint(LAST) / f"{part}.safetensors").items()}
        for run in (alone, averaged)
        for part in (AVERAGE, BEST)
    ]
    assert all(shape == shapes[0] for shape in shapes)


def test_in_bfloat16_ranks_that_share_weights_learn_what_one_does(made, tmp_path):
    training = evolve(EXACT, precision="bfloat16")
    alone = tuned(section(training=training), made, tmp_path / "alone")
    together = tuned(section(data=2, zero_stage=3, training=training), made, tmp_path / "together", ranks=True)
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=2e-2)


def test_an_epoch_whose_last_step_is_short_counts_each_example_once(made, tmp_path):
    """48 sentences: 20, 20 and 8 at a step, of which one rank has but a filler in the end. Nothing is learned."""
    frozen = {"optimizer": AdamW(learning_rate=1e-30), "schedule": Constant(warmup=Steps(0))}
    training = evolve(EXACT, global_batch_size=20, group_by_length=False, **frozen)
    run = tuned(section(training=training, data=2, micro_batch_size=5), made, tmp_path, ranks=True)
    alone = tuned(section(training=training, data=1, micro_batch_size=20), made, tmp_path / "alone")
    assert len(column(run, "loss")) == 6
    assert column(run, "loss") == pytest.approx(column(alone, "loss"), rel=1e-5)


def test_the_mean_of_weights_is_that_of_its_definition(made, tmp_path):
    training = evolve(TUNING, dropout=0.0, average_decay=0.5, epochs=0.5)
    run = tuned(section(training=training), made, tmp_path, checkpoint_interval=1, keep_checkpoints=3)
    weights = [load_file(run.state.checkpoint(step) / "weights.safetensors") for step in (2, 3)]
    average = [load_file(run.state.checkpoint(step) / "average.safetensors") for step in (2, 3)]
    share = 1 - min(0.5, (1 + 3) / (10 + 3))
    for name, weight in weights[1].items():
        expected = average[0][name] * (1 - share) + weight * share
        torch.testing.assert_close(average[1][name], expected, rtol=1e-5, atol=1e-7)


def test_layers_nearer_to_the_text_change_less(made, tmp_path):
    def moved(decay):
        training = evolve(
            EXACT,
            layer_decay=decay,
            epochs=0.17,
            schedule=Constant(warmup=Steps(0)),
            optimizer=AdamW(learning_rate=1e-3, weight_decay=0.0),
        )
        run = tuned(section(training=training), made, tmp_path / str(decay))
        job = run.job
        first = with_head(made["start"], job.work(), seed=job.training.seed, dropout=0.0).state_dict()
        after = load_file(run.state.checkpoint(1) / "weights.safetensors")
        return {name: (after[name] - first[name]).abs().max().item() for name in after}

    whole, less = moved(1.0), moved(0.5)
    for name, depth in (
        ("classifier.weight", 0),
        ("bert.encoder.layer.1.output.dense.weight", 1),
        ("bert.encoder.layer.0.output.dense.weight", 2),
        ("bert.embeddings.word_embeddings.weight", 3),
    ):
        assert less[name] == pytest.approx(whole[name] * 0.5**depth, rel=1e-3)


def test_the_best_epoch_is_handed_on(made, tmp_path):
    training = evolve(TUNING, epochs=6, optimizer=AdamW(learning_rate=0.3), average_decay=None)
    run = tuned(section(training=training), made, tmp_path)
    model, step = model_of(run)
    assert step == best_step(run.metrics)
    best = load_file(run.state.checkpoint(run.metrics[-1]["step"]) / "best.safetensors")
    for name, weight in model.named_parameters():
        assert torch.equal(weight, best[name])
    last, its = model_of(tuned(section(training=evolve(training, select="last")), made, tmp_path / "last"))
    assert its == run.metrics[-1]["step"]
    assert any(not torch.equal(weight, best[name]) for name, weight in last.named_parameters()) or step == its


def test_a_run_ends_early_where_nothing_gets_better_and_ends_there_again(made, tmp_path):
    training = evolve(EXACT, epochs=50, early_stopping=2, optimizer=AdamW(learning_rate=1e-30))
    run = tuned(section(training=training), made, tmp_path)
    assert run.metrics[-1]["step"] == 18
    assert tuned(section(training=training), made, tmp_path).metrics == run.metrics


ROWS = [
    {"step": step, "validation_score": score, "validation_loss": loss}
    for step, score, loss in ((1, 0.1, 3.0), (2, 0.3, 2.0), (3, 0.3, 2.0), (4, 0.2, 1.0), (5, 0.4, 1.0))
]


@pytest.mark.parametrize(("patience", "last"), [(None, None), (1, 3), (2, 4), (3, None)])
def test_when_a_run_ends_by_hand(patience, last):
    assert last_step([{"step": 0}, *ROWS], patience) == last


def test_the_best_step_is_that_with_the_least_loss_of_the_best_and_of_these_the_first():
    assert best_step(ROWS[:3]) == 2
    assert best_step([*ROWS[:3], {"step": 4, "validation_score": 0.3, "validation_loss": 1.5}]) == 4
    assert best_step([{"step": 1}]) is None


def test_balanced_classes_weigh_as_much_together(made, tmp_path):
    training = evolve(EXACT, class_weights="balanced", epochs=1)
    run = tuned(section(training=training), made, tmp_path)
    work = run.job.work()
    weights = work.weights(work.items(examples.read(made["examples"], "train"))[0])
    tags = [tag for row in examples.read(made["examples"], "train") for tag in row["tags"]]
    for label, weight in zip(run.job.task.labels, weights.tolist(), strict=True):
        if label in tags:
            assert weight * tags.count(label) == pytest.approx(len(tags) / len(run.job.task.labels))


ANSWERS = {
    "one": ["good" if index % 3 else "bad" for index in range(60)],
    "several": [["a"] if index % 2 else ["a", "b"] if index % 3 else [] for index in range(60)],
    "score": [index / 60 for index in range(60)],
}


def texts_of(answer):
    """Training examples, each of whose texts says its answer."""
    key = {"one": "label", "several": "labels", "score": "score"}[answer]
    given = enumerate(ANSWERS[answer])
    return {"train": [[{"id": str(index), "text": f"{each} and more", key: each}] for index, each in given]}


@pytest.mark.parametrize("answer", ANSWERS)
def test_texts_of_every_kind_are_learned(made, tmp_path, answer):
    what = evolve(TONES, answer=answer)
    inputs = {"start": made["start"], "examples": make(tmp_path, what, texts_of(answer))}
    run = tuned(section(what, evolve(EXACT, epochs=4, optimizer=AdamW(learning_rate=3e-3))), inputs, tmp_path / "run")
    losses = column(run, "loss")
    assert losses[-1] < 0.8 * losses[0]
    work = run.job.work()
    split = examples.read(inputs["examples"], "validation")
    model, _ = model_of(run)
    verdict = work.verdict(split, work.answers(model, work.items(split)[0]))
    first = next(iter(verdict.scores.values()))
    best = max(column(run, "validation_score"))
    assert (first.value if first.better == "higher" else -first.value) == pytest.approx(best, rel=1e-5)
    assert math.isfinite(first.value)
    assert tuple(verdict.scores) == what.scores
    assert {name for name, number in verdict.numbers.items() if isinstance(number, float)} == {
        *what.scores,
        *what.numbers,
    }


def test_zeros_of_a_pruned_model_stay_zero(made, tmp_path):
    model = folders.load_model(made["start"])
    for layer, _ in zeros_of(model):
        weight = layer.weight.data
        weight[weight.abs() < weight.abs().median()] = 0
    card = evolve(cards.read(made["start"], ModelCard), sparse=True)
    folders.save_model(model, made["start"], tmp_path / "sparse")
    cards.write(tmp_path / "sparse", card)
    artifacts.seal(tmp_path / "sparse", "model")
    run = tuned(section(), made | {"start": tmp_path / "sparse"}, tmp_path / "run")
    learned, _ = model_of(run)
    folders.save_model(learned, made["start"], tmp_path / "learned")
    cards.write(tmp_path / "learned", card)
    artifacts.seal(tmp_path / "learned", "model")
    refuse_lost(tmp_path / "sparse", tmp_path / "learned")
    zeros = [int((layer.weight == 0).sum()) for layer, _ in zeros_of(learned.base_model)]
    assert min(zeros) > 100
    # What it is compared by can fail.
    learned.base_model.encoder.layer[0].attention.self.query.weight.data.fill_(1)
    folders.save_model(learned, made["start"], tmp_path / "other")
    cards.write(tmp_path / "other", card)
    artifacts.seal(tmp_path / "other", "model")
    with pytest.raises(StageError, match="zero in"):
        refuse_lost(tmp_path / "sparse", tmp_path / "other")


def test_a_second_task_begins_with_what_the_first_has_learned(made, tmp_path):
    what = evolve(tiny_tasks.NAMES, case_as_token_types=True)
    inputs = made | {"examples": tiny_tasks.make_names(tmp_path / "names", what=what)}
    run = tuned(section(what), inputs, tmp_path / "run")
    first, _ = model_of(run)
    card = evolve(cards.read(made["start"], ModelCard), task=run.job.task)
    folders.save_model(first, made["start"], tmp_path / "first")
    cards.write(tmp_path / "first", card)
    artifacts.seal(tmp_path / "first", "model")
    second = with_head(tmp_path / "first", run.job.work(), seed=9, dropout=None)
    weights, before = second.state_dict(), first.state_dict()
    assert not torch.equal(weights["classifier.weight"], before["classifier.weight"])
    for name in set(weights) - {"classifier.weight", "classifier.bias"}:
        assert torch.equal(weights[name], before[name])


def test_what_is_dropped_in_training_is_nothing_of_the_model(made, tmp_path):
    published = folders.load_model(made["start"]).config.hidden_dropout_prob
    model, _ = model_of(tuned(section(training=evolve(TUNING, dropout=0.3)), made, tmp_path))
    assert model.config.hidden_dropout_prob == published != 0.3


def test_a_modern_bert_keeps_its_own_head(tmp_path):
    config = ModernBertConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        **dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 0),
    )
    network = ModernBert(hidden_size=32, num_layers=2, num_attention_heads=2, intermediate_size=64)
    tiny_model.write_tokenizer(tmp_path / "tokenizer")
    theirs = ModernBertForMaskedLM(config)
    start = tiny_model.write_model(
        theirs, tmp_path / "tokenizer", tmp_path / "start", network=network, objective=tiny_distillation.MASKED
    )
    for what in (tiny_tasks.NAMES, TONES, QUESTIONS):
        work = work_of(card_of(what, ("a", "b"), network), folders.load_tokenizer(start))
        own, known = with_head(start, work, seed=0, dropout=None).state_dict(), theirs.state_dict()
        assert torch.equal(own["head.dense.weight"], known["head.dense.weight"])
        assert torch.equal(own["model.layers.0.mlp.Wi.weight"], known["model.layers.0.mlp.Wi.weight"])


@pytest.mark.parametrize("answer", ANSWERS)
def test_texts_killed_on_the_way_end_with_the_same_bytes(made, tmp_path, answer):
    what = section(evolve(TONES, answer=answer))
    inputs = {"start": made["start"], "examples": make(tmp_path, evolve(TONES, answer=answer), texts_of(answer))}
    whole = tuned(what, inputs, tmp_path / "whole")
    assert killed(what, inputs, tmp_path / "killed", "os.rename", r"/checkpoints/8$") == -signal.SIGKILL
    resumed = tuned(what, inputs, tmp_path / "killed", checkpoint_interval=2)
    assert resumed.metrics == whole.metrics
    assert digests(resumed) == digests(whole)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory):
    root = tmp_path_factory.mktemp("chatting")
    return {"start": tiny_tasks.make_writer(root / "start"), "examples": tiny_tasks.make_chats(root / "chats")}


def test_answers_killed_on_the_way_end_with_the_same_bytes(chatting, tmp_path):
    what = section(CHATS)
    whole = tuned(what, chatting, tmp_path / "whole")
    last = whole.metrics[-1]["step"]
    assert (
        killed(what, chatting, tmp_path / "killed", "os.rename", rf"/checkpoints/{last // 4 * 2}$") == -signal.SIGKILL
    )
    resumed = tuned(what, chatting, tmp_path / "killed", checkpoint_interval=2)
    assert resumed.metrics == whole.metrics
    assert digests(resumed) == digests(whole)


def test_answers_are_learned_packed_as_by_themselves(chatting, tmp_path):
    """All chats in one step: how they are packed makes no difference."""
    training = evolve(EXACT, global_batch_size=64, epochs=4)
    losses = {}
    for packing in (True, False):
        what = section(evolve(CHATS, packing=packing), training, micro_batch_size=8)
        losses[packing] = column(tuned(what, chatting, tmp_path / str(packing)), "loss")
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    assert losses[True][-1] < losses[True][0]


def test_two_ranks_learn_the_answers_that_one_does(chatting, tmp_path):
    alone = tuned(section(CHATS, EXACT), chatting, tmp_path / "alone")
    together = tuned(section(CHATS, EXACT, data=2), chatting, tmp_path / "together", ranks=True)
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=1e-4)
    assert column(together, "validation_score") == pytest.approx(column(alone, "validation_score"), rel=1e-4)


@pytest.fixture(scope="module")
def preferring(tmp_path_factory):
    root = tmp_path_factory.mktemp("preferring")
    return {"start": tiny_tasks.make_writer(root / "start"), "examples": tiny_tasks.make_choices(root / "pairs")}


def test_preferences_are_learned(preferring, tmp_path):
    run = tuned(section(CHOICES, evolve(EXACT, optimizer=AdamW(learning_rate=1e-3))), preferring, tmp_path)
    work, (model, _) = run.job.work(), model_of(run)
    split = examples.read(preferring["examples"], "validation")
    items, _ = work.items(split)
    start = with_head(preferring["start"], work, seed=0, dropout=None)
    before, after = (work.verdict(split, work.answers(each, items)).numbers for each in (start, model))
    assert before["accuracy"] < 0.8 < after["accuracy"]
    assert after["margin"] > before["margin"] + 0.1
    # What decides is the loss beside the start, also of a model that is measured by itself.
    beside = work.prepared(items, lambda each: work.answers(start, each))
    (first, score), *_ = work.verdict(split, work.answers(model, beside)).scores.items()
    assert (first, -score.value) == ("loss", pytest.approx(max(column(run, "validation_score")), rel=1e-4))
    assert column(run, "validation_score") == pytest.approx([-loss for loss in column(run, "validation_loss")])


def test_who_stays_at_the_start_has_the_loss_of_a_coin(preferring, tmp_path):
    training = evolve(EXACT, optimizer=AdamW(learning_rate=1e-30), schedule=Constant(warmup=Steps(0)), epochs=1)
    run = tuned(section(CHOICES, training), preferring, tmp_path)
    assert column(run, "loss") == pytest.approx([math.log(2)] * len(run.metrics), rel=1e-5)
    assert column(run, "validation_loss") == pytest.approx([math.log(2)], rel=1e-5)


def test_preferences_killed_on_the_way_end_with_the_same_bytes(preferring, tmp_path):
    """What a resumed run compares with is the start, not the checkpoint."""
    what = section(CHOICES)
    whole = tuned(what, preferring, tmp_path / "whole")
    last = whole.metrics[-1]["step"]
    stopped = killed(what, preferring, tmp_path / "killed", "os.rename", rf"/checkpoints/{last // 4 * 2}$")
    assert stopped == -signal.SIGKILL
    resumed = tuned(what, preferring, tmp_path / "killed", checkpoint_interval=2)
    assert resumed.metrics == whole.metrics
    assert digests(resumed) == digests(whole)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_ranks_learn_the_preferences_that_one_does(preferring, tmp_path, zero_stage):
    alone = tuned(section(CHOICES, EXACT), preferring, tmp_path / "alone")
    what = section(CHOICES, EXACT, data=2, zero_stage=zero_stage)
    together = tuned(what, preferring, tmp_path / "together", ranks=True)
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=1e-4)
    assert column(together, "validation_score") == pytest.approx(column(alone, "validation_score"), rel=1e-4)


def test_examples_of_which_nothing_is_left_are_refused(preferring, tmp_path):
    with pytest.raises(StageError, match=r"t-finetune.task.max_length: of no train example anything is left within"):
        tuned(section(evolve(CHOICES, max_length=8)), preferring, tmp_path)


def test_a_plain_program_gets_the_logits_of_a_model_with_types_of_case(made, tmp_path):
    what = evolve(tiny_tasks.NAMES, case_as_token_types=True)
    inputs = made | {"examples": tiny_tasks.make_names(tmp_path / "names", what=what)}
    model, _ = model_of(tuned(section(what), inputs, tmp_path / "run"))
    model.save_pretrained(tmp_path / "saved")
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "saved")
    assert plain.config.type_vocab_size == 4
    read = {"input_ids": torch.tensor([[5, 6, 7]])}
    types = torch.tensor([[0, 1, 3]])
    assert torch.equal(plain(**read, token_type_ids=types).logits, model(**read, token_type_ids=types).logits)
    assert not torch.equal(plain(**read).logits, plain(**read, token_type_ids=types).logits)


@pytest.fixture(scope="module")
def questions(made, tmp_path_factory):
    return made | {"examples": tiny_tasks.make_questions(tmp_path_factory.mktemp("questions"))}


def test_questions_are_learned(questions, tmp_path):
    run = tuned(section(QUESTIONS, evolve(EXACT, epochs=10)), questions, tmp_path)
    losses = column(run, "loss")
    assert losses[-1] < 0.5 * losses[0]
    work, split = run.job.work(), examples.read(questions["examples"], "validation")
    model, _ = model_of(run)
    verdict = work.verdict(split, work.answers(model, work.items(split)[0]))
    assert verdict.numbers["f1"] == pytest.approx(max(column(run, "validation_score")), rel=1e-5)
    assert verdict.numbers["f1"] > 0.6
    assert tuple(verdict.scores) == QUESTIONS.scores
    assert set(verdict.numbers) == {*QUESTIONS.scores, *QUESTIONS.numbers}


def test_questions_killed_on_the_way_end_with_the_same_bytes(questions, tmp_path):
    what = section(QUESTIONS)
    whole = tuned(what, questions, tmp_path / "whole")
    assert killed(what, questions, tmp_path / "killed", "os.rename", r"/checkpoints/8$") == -signal.SIGKILL
    resumed = tuned(what, questions, tmp_path / "killed", checkpoint_interval=2)
    assert resumed.metrics == whole.metrics
    assert digests(resumed) == digests(whole)


def test_two_ranks_learn_questions_as_one_does(questions, tmp_path):
    alone = tuned(section(QUESTIONS, EXACT), questions, tmp_path / "alone")
    together = tuned(section(QUESTIONS, EXACT, data=2), questions, tmp_path / "together", ranks=True)
    for name in ("loss", "validation_loss", "validation_score"):
        assert column(together, name) == pytest.approx(column(alone, name), rel=1e-4)


def headed(start, what, labels, seed, directory):
    """A model artifact with the head of a task, as it is before it learns."""
    task = card_of(what, labels, cards.read(start, ModelCard).network)
    model = with_head(start, work_of(task, folders.load_tokenizer(start)), seed=seed, dropout=None)
    folders.save_model(model, start, directory)
    cards.write(directory, evolve(cards.read(start, ModelCard), task=task))
    artifacts.seal(directory, "model")
    return model


def test_what_has_told_tags_apart_learns_where_answers_are(made, tmp_path):
    """Its configuration has as many labels as there are tags, and an answer has a beginning and an end."""
    headed(made["start"], tiny_tasks.NAMES, ("O", "B-A", "I-A"), 0, tmp_path / "tagger")
    first = headed(tmp_path / "tagger", QUESTIONS, (), 0, tmp_path / "first")
    assert type(first).__name__ == "BertForQuestionAnswering"
    assert first(torch.tensor([[1, 2, 3]])).start_logits.shape == (1, 3)
    # Where it has learned that already, what decides is drawn anew.
    second = headed(tmp_path / "first", QUESTIONS, (), 9, tmp_path / "second").state_dict()
    changed = {name for name, weight in first.state_dict().items() if not torch.equal(weight, second[name])}
    assert changed == {"qa_outputs.weight"}


@pytest.mark.parametrize("what", [tiny_tasks.NAMES, TONES, QUESTIONS], ids=lambda each: each.tag)
def test_what_gives_vectors_learns_other_tasks(made, tmp_path, what):
    """It has no head, so its weights have other names."""
    vectors = headed(made["start"], PAIRS, (), 0, tmp_path / "vectors")
    other = headed(tmp_path / "vectors", what, ("a", "b"), 0, tmp_path / "other")
    for name, weight in vectors.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(other.base_model.state_dict()[name], weight)


@pytest.mark.parametrize("what", [TONES, PAIRS], ids=lambda each: each.tag)
def test_what_writes_learns_to_tell_apart_and_to_compare(chatting, tmp_path, what):
    writer = headed(chatting["start"], CHATS, (), 0, tmp_path / "writer")
    other = headed(tmp_path / "writer", what, ("a", "b"), 0, tmp_path / "other")
    for name, weight in writer.base_model.state_dict().items():
        assert torch.equal(other.base_model.state_dict()[name], weight)


def of_pairs(made, tmp_path, what=PAIRS):
    return {"start": made["start"], "examples": make(tmp_path / "pairs", what, {"train": tiny_tasks.pairs(80)})}


HARD = evolve(PAIRS, negative_field="negative")


@pytest.mark.parametrize("what", [PAIRS, HARD], ids=["pairs", "negatives"])
def test_queries_come_near_to_what_they_look_for(made, tmp_path, what):
    inputs = of_pairs(made, tmp_path, what)
    run = tuned(section(what, evolve(EXACT, epochs=6), micro_batch_size=8), inputs, tmp_path / "run")
    work, split = run.job.work(), examples.read(inputs["examples"], "validation")
    items = work.items(split)[0]
    before = with_head(made["start"], work, seed=0, dropout=None)
    (untaught, taught) = (work.verdict(split, work.answers(each, items)) for each in (before, model_of(run)[0]))
    assert taught.numbers["recall_at_1"] > untaught.numbers["recall_at_1"] + 0.2
    assert taught.scores["ndcg_at_10"].value == pytest.approx(max(column(run, "validation_score")), rel=1e-5)
    # The last step of an epoch has fewer pairs.
    assert all(math.isfinite(loss) for loss in column(run, "loss"))


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_ranks_learn_from_their_own_negatives_what_one_does_from_as_many(made, tmp_path, zero_stage):
    inputs = of_pairs(made, tmp_path)
    alone = tuned(section(PAIRS, EXACT), inputs, tmp_path / "alone")
    what = section(PAIRS, EXACT, data=2, zero_stage=zero_stage)
    together = tuned(what, inputs, tmp_path / "together", ranks=True)
    assert column(together, "loss") == pytest.approx(column(alone, "loss"), rel=1e-3)
    assert column(together, "validation_score") == pytest.approx(column(alone, "validation_score"))


def test_more_negatives_are_harder(made, tmp_path):
    inputs = of_pairs(made, tmp_path)
    few, many = (
        tuned(section(PAIRS, EXACT, micro_batch_size=size), inputs, tmp_path / str(size)).metrics[0]["loss"]
        for size in (2, 8)
    )
    assert many > few + 0.5


def test_pairs_killed_on_the_way_end_with_the_same_bytes(made, tmp_path):
    what, inputs = section(HARD), of_pairs(made, tmp_path, HARD)
    whole = tuned(what, inputs, tmp_path / "whole")
    assert killed(what, inputs, tmp_path / "killed", "os.rename", r"/checkpoints/8$") == -signal.SIGKILL
    resumed = tuned(what, inputs, tmp_path / "killed", checkpoint_interval=2)
    assert resumed.metrics == whole.metrics
    folders_of = [run.state.checkpoint(run.metrics[-1]["step"]) for run in (whole, resumed)]
    for file in FILES:
        one, other = (artifacts.file_digest(folder / f"{file}.safetensors") for folder in folders_of)
        assert one == other


def test_what_no_vector_is_made_of_stays_as_it_was_drawn(made, tmp_path):
    """The pooler, which transformers' class of the body has."""
    run = tuned(section(PAIRS), of_pairs(made, tmp_path), tmp_path / "run")
    model, _ = model_of(run)
    first = with_head(made["start"], run.job.work(), seed=TUNING.seed, dropout=None)
    assert type(model).__name__ == "BertModel"
    for name, weight in model.named_parameters():
        assert torch.equal(weight, first.get_parameter(name)) == name.startswith("pooler.")
