"""A student learns what a plain loop says, however its batches are cut, and keeps what it has to keep."""

import attrs
import numpy as np
import pytest
import tiny_model
import torch
from tiny_distillation import (
    LENGTH,
    MASKED,
    MASKING,
    TRAINING,
    column,
    distilled,
    kl,
    make_masked,
    plain_losses,
    section,
    weights,
    with_training,
)
from transformers import AutoModelForMaskedLM, LlamaForCausalLM

from llmrecipe import Epochs, FillInTheMiddle, Steps, artifacts, cards, distil, evolve
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.saving import save_and_verify
from llmrecipe.engines.finetuning.distillation import launcher, saving
from llmrecipe.engines.finetuning.distillation.batches import Reader, heldout_batches, training_batches
from llmrecipe.engines.finetuning.distillation.launcher import student_of
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.masking import mask
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.optimizer import SGD, AdamW


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher, a student of its shape with other weights, and their tokens."""
    folder = tmp_path_factory.mktemp("made")
    inputs = tiny_model.make(folder)
    torch.manual_seed(1)
    student = LlamaForCausalLM(folders.load_model(inputs["model"]).config)
    tiny_model.write_model(student, folder / "tokenizer", folder / "student")
    return {"teacher": inputs["model"], "tokens": inputs["tokens"], "student": folder / "student"}


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return make_masked(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    return distilled(section(network=None), made, tmp_path_factory.mktemp("run"))


def forward(student, teacher, _):
    return kl(teacher.double().softmax(-1), student.double().softmax(-1)).mean()


def reverse(student, teacher, _):
    return 4 * kl((student.double() / 2).softmax(-1), (teacher.double() / 2).softmax(-1)).mean()


def half_hard(student, teacher, labels):
    hard = torch.nn.functional.cross_entropy(student.flatten(0, 1), labels.flatten())
    return (forward(student, teacher, labels) + hard) / 2


@pytest.mark.parametrize(
    ("words", "by_definition"),
    [
        ({}, forward),
        ({"loss": distil.ReverseKL(temperature=2.0)}, reverse),
        ({"hard_loss_weight": 0.5}, half_hard),
    ],
    ids=["forward", "reverse", "hard"],
)
def test_a_student_learns_as_in_a_plain_loop(made, tmp_path, words, by_definition):
    found = distilled(section(network=None, **words), made, tmp_path)
    student, teacher = (folders.load_model(made[role]) for role in ("student", "teacher"))
    expected = plain_losses(student, teacher, made["tokens"], by_definition)
    assert column(found, "loss") == pytest.approx(expected, rel=1e-5)
    assert column(found, "learning_rate") == pytest.approx([1.5e-3, *5 * [3e-3]])
    for name, weight in student.state_dict().items():
        # A tenth of a step: where a gradient is next to nothing, AdamW makes much of how it is rounded.
        torch.testing.assert_close(weights(found)[name], weight, rtol=0, atol=3e-4)


def test_in_bfloat16_products_are_rounded_and_weights_are_not(made, tmp_path):
    hidden = distil.HiddenStates(weight=0.1)
    what = section(network=None, hidden_states=hidden, training=evolve(TRAINING, precision="bfloat16"))
    found = distilled(what, made, tmp_path)
    student, teacher = (folders.load_model(made[role]) for role in ("student", "teacher"))
    seen = set()
    for model in (student, teacher):
        model.lm_head.register_forward_hook(lambda _, __, logits: seen.add(logits.dtype))
    wide = plain_losses(student, teacher, made["tokens"], forward)
    # What is cached of its weights lasts as long as this, and they learn in it.
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        student = folders.load_model(made["student"])
        rounded = plain_losses(student, teacher, made["tokens"], forward)
    assert seen == {torch.float32, torch.bfloat16}
    plain = distilled(evolve(what, hidden_states=None), made, tmp_path / "plain")
    assert column(plain, "loss") == pytest.approx(rounded, rel=1e-3)
    assert column(plain, "loss") != pytest.approx(wide, rel=1e-5)
    assert column(found, "loss") == pytest.approx(column(plain, "loss"), rel=0.5)
    assert column(found, "loss")[0] > column(plain, "loss")[0]
    assert {weight.dtype for weight in weights(found).values()} == {torch.float32}
    assert any((weight.bfloat16() != weight).any() for weight in weights(found).values())


def test_a_network_begins_with_the_weights_that_its_seed_draws(made, tmp_path):
    inputs = {role: made[role] for role in ("teacher", "tokens")}
    found = distilled(section(training=evolve(TRAINING, duration=Steps(3))), inputs, tmp_path)
    torch.manual_seed(TRAINING.seed)
    student = LlamaForCausalLM(student_of(found).config)
    expected = plain_losses(student, folders.load_model(made["teacher"]), made["tokens"], forward, steps=3)
    assert column(found, "loss") == pytest.approx(expected, rel=1e-5)
    # Of the teacher's 384 rows, 320 are tokens.
    assert student.config.vocab_size == 320


@pytest.mark.parametrize("size", [1, 2, 8])
def test_a_batch_in_parts_teaches_the_same(made, tmp_path, run, size):
    found = distilled(section(network=None, micro_batch_size=size), made, tmp_path)
    for name in ("loss", "grad_norm", "validation_loss"):
        assert column(found, name) == pytest.approx(column(run, name), rel=1e-5)


def test_the_loss_on_held_out_text_is_that_of_its_first_sequences(made, run):
    files = artifacts.read_json(made["tokens"] / "card.json")["splits"]["heldout"]["files"]
    row = np.fromfile(made["tokens"] / files[0], "<u2").astype(np.int64)
    batch = torch.from_numpy(np.stack([row[start * LENGTH :][:LENGTH] for start in range(10)]))
    student, teacher = student_of(run), folders.load_model(made["teacher"])
    with torch.no_grad():
        logits = [model(input_ids=batch).logits[..., :320] for model in (student, teacher)]
    assert [row["step"] for row in run.metrics if "validation_loss" in row] == [3, 6]
    assert column(run, "validation_loss")[-1] == pytest.approx(forward(*logits, None).item(), rel=1e-5)


def test_masked_students_learn_at_masked_places_alone_and_drop_nothing(masked, tmp_path):
    found = distilled(section(network=None), masked, tmp_path)
    job = evolve(found.job, section__parallelism__micro_batch_size=TRAINING.global_batch_size)
    first = next(training_batches(Reader.of(job, "train"), job, 0))
    student, teacher = (folders.load_model(masked[role]) for role in ("student", "teacher"))
    with torch.no_grad():
        logits = [model(input_ids=first["input_ids"]).logits for model in (student, teacher)]
    places = first["labels"] != -100
    assert 0 < places.sum() < 0.2 * places.numel()
    expected = forward(logits[0][places], logits[1][places], None)
    assert column(found, "loss")[0] == pytest.approx(expected.item(), rel=1e-5)
    parts = distilled(section(network=None, micro_batch_size=1), masked, tmp_path / "parts")
    assert column(parts, "loss") == pytest.approx(column(found, "loss"), rel=1e-5)


def test_masks_are_those_of_any_run_of_this_seed(masked, tmp_path):
    job = distilled(
        section(network=None, training=evolve(TRAINING, duration=Steps(1), schedule__warmup=Steps(0))), masked, tmp_path
    ).job
    reader = Reader.of(job, "train")
    batch = reader.read([(3, 0), (3, 1)])
    for epoch in (0, 1):
        tokens = reader.files.window(3, LENGTH)[:LENGTH].astype(np.int64)
        expected = mask(tokens, MASKED, reader.vocabulary, seed=TRAINING.seed, epoch=epoch, window=3)
        assert batch["input_ids"][epoch].tolist() == expected.input_ids.tolist()
        assert (batch["labels"][epoch] != -100).nonzero()[:, 0].tolist() == expected.positions.tolist()
        labels = batch["labels"][epoch][expected.positions]
        assert labels.tolist() == tokens[expected.positions].tolist()
    assert MASKING.mask_token_id in batch["input_ids"]
    assert not batch["input_ids"][0].equal(batch["input_ids"][1])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_read_together_what_one_reads_and_go_on_where_it_stopped(run, ranks):
    job = evolve(run.job, section__parallelism__data=ranks, section__parallelism__micro_batch_size=2)
    readers = {split: Reader.of(job, split) for split in ("train", "heldout")}
    windows = readers["train"].files.order(LENGTH, TRAINING.seed).windows(0, 24)
    expected = [readers["train"].read([(window, 0)])["input_ids"][0].tolist() for window in windows]
    accumulation = 8 // (2 * ranks)
    for resumed in (0, 2):
        rows = []
        each = [training_batches(readers["train"], evolve(job, resumed=resumed), rank) for rank in range(ranks)]
        for _ in range((3 - resumed) * accumulation):
            for batches in each:
                rows += next(batches)["input_ids"].tolist()
        assert rows == expected[8 * resumed :]
    shares = [list(heldout_batches(readers["heldout"], job, rank)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for batch, counts in share if counts for row in batch["input_ids"].tolist()]
    first = [readers["heldout"].read([(window, 0)])["input_ids"][0].tolist() for window in range(10)]
    assert sorted(rows) == sorted(first)


def test_documents_are_read_by_themselves_where_the_student_does_so(made, run):
    alone = Reader.of(evolve(run.job, objective__restart_at_documents=True), "train")
    batch = next(
        batch for window in range(60) if (batch := alone.read([(window, 0)]))["position_ids"].max() < LENGTH - 1
    )
    teacher = folders.load_model(made["teacher"])
    inputs, positions = batch["input_ids"], batch["position_ids"]
    start = int((positions[0] == 0).nonzero()[-1])
    with torch.no_grad():
        together = teacher(input_ids=inputs, position_ids=positions, use_cache=False).logits
        by_itself = teacher(input_ids=inputs[:, start:], use_cache=False).logits
    torch.testing.assert_close(together[:, start:], by_itself, rtol=1e-4, atol=1e-4)
    assert "position_ids" not in Reader.of(run.job, "train").read([(0, 0)])


def test_documents_are_rearranged_where_the_student_learned_so_and_never_held_out(run):
    # Any tokens do, as long as they are free.
    options = FillInTheMiddle(rate=1.0)
    job = evolve(run.job, objective__fill_in_the_middle=options)
    with pytest.raises(StageError, match="the tokenizer has no special token"):
        Reader.of(job, "train")
    assert Reader.of(job, "heldout").rearrangement is None


@pytest.mark.parametrize(
    "optimizer", [AdamW(learning_rate=1e-2, weight_decay=0.1), SGD(learning_rate=1.0, momentum=0.9, weight_decay=0.1)]
)
def test_zeros_of_a_sparse_student_stay_zeros_bit_for_bit(made, tmp_path, optimizer):
    sparse, places = sparse_student(made, tmp_path)
    inputs = made | {"student": sparse}
    read = cards.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher.cards, "read", lambda *what: _Sparse(read(*what)))
        kept = distilled(with_training(section(network=None), optimizer=optimizer), inputs, tmp_path / "kept")
    lost = distilled(with_training(section(network=None), optimizer=optimizer), inputs, tmp_path / "lost")
    assert kept.job.keep_zeros
    assert not lost.job.keep_zeros
    for name, at in places.items():
        # Not `== 0`, which a zero with a sign is as well.
        assert (weights(kept)[name].view(torch.int32) == 0)[at].all()
        assert (weights(kept)[name] != 0)[~at].float().mean() > 0.99
        assert (weights(lost)[name] != 0)[at].float().mean() > 0.9


class _Sparse:
    """A card that says that its model is sparse."""

    def __init__(self, card):
        self._card = card
        self.sparse = True

    def __getattr__(self, name):
        return getattr(self._card, name)


def sparse_student(made, folder):
    """The student with half of the weights of its linear layers zero, and where they are."""
    student = folders.load_model(made["student"])
    places = {}
    for name, module in student.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = module.weight.detach().clone()
            places[f"{name}.weight"] = weight.abs() < weight.abs().median()
            module.weight = torch.nn.Parameter(weight.masked_fill(places[f"{name}.weight"], 0))
    return tiny_model.write_model(student, made["teacher"], folder / "sparse"), places


def test_norms_biases_and_embeddings_do_not_decay_unless_asked(masked, tmp_path):
    still = AdamW(learning_rate=1e-30, weight_decay=1e28, no_decay=("norms", "biases", "embeddings"))
    found = distilled(
        with_training(section(network=None), optimizer=still, duration=Steps(1), schedule__warmup=Steps(0)),
        masked,
        tmp_path,
    )
    before, after = folders.load_model(masked["student"]).state_dict(), weights(found)
    moved = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-6)}
    assert moved == {
        name
        for name in before
        if name.endswith("weight") and "Norm" not in name and "embeddings" not in name and "decoder" not in name
    }


def test_a_run_in_epochs_knows_its_length_with_its_text(made, tmp_path):
    found = distilled(with_training(section(network=None), duration=Epochs(0.02)), made, tmp_path)
    count = found.job.open_tokens("train").num_windows(LENGTH)
    assert len(found.metrics) == found.job.num_steps == -(-round(0.02 * count) // 8)
    with pytest.raises(
        RecipeError, match=r"t-distil\.training\.schedule\.warmup: this Steps is 2 steps, and the whole"
    ):
        distilled(with_training(section(network=None), duration=Epochs(0.001)), made, tmp_path / "short")


def test_a_step_whose_loss_is_not_finite_ends_the_run_before_anything_learns_from_it(made, tmp_path):
    student = folders.load_model(made["student"])
    student.model.norm.weight = torch.nn.Parameter(torch.full_like(student.model.norm.weight, float("inf")))
    broken = tiny_model.write_model(student, made["teacher"], tmp_path / "broken")
    with pytest.raises(StageError, match=r"t-distil: step 1 has loss = nan and grad_norm = nan\. A lower training\."):
        distilled(section(network=None), made | {"student": broken}, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*/checkpoints/*"))


def test_tokens_of_another_tokenizer_than_the_students_are_refused(made, tmp_path):
    model = folders.load_model(made["student"])
    other = tiny_model.write_model(model, made["teacher"], tmp_path / "other", tokenizer_digest="1" * 64)
    with pytest.raises(StageError, match=rf"another tokenizer .* than that of {other}"):
        distilled(section(network=None), made | {"student": other}, tmp_path / "run")


def test_a_teacher_of_the_same_tokens_may_say_other_things_of_its_tokenizer(made, tmp_path):
    teacher = folders.load_model(made["teacher"])
    alike = tiny_model.write_model(teacher, made["teacher"], tmp_path / "alike", tokenizer_digest="1" * 64)
    what = with_training(section(network=None), duration=Steps(1), schedule__warmup=Steps(0))
    assert len(distilled(what, made | {"teacher": alike}, tmp_path / "run").metrics) == 1
    tiny_model.write_tokenizer(tmp_path / "larger", vocab_size=321)
    other = tiny_model.write_model(teacher, tmp_path / "larger", tmp_path / "other", tokenizer_digest="1" * 64)
    with pytest.raises(
        StageError, match=r"the teacher knows 321 tokens and the student in .* 320, and 1 differ, such as"
    ):
        distilled(what, made | {"teacher": other}, tmp_path / "run")


def test_a_text_without_a_batch_is_refused(made, tmp_path):
    large = with_training(section(network=None), global_batch_size=100_000)
    with pytest.raises(StageError, match="fewer than one batch of 100000"):
        distilled(large, made, tmp_path)


def test_what_the_student_can_not_do_is_refused_with_its_own_network(made, tmp_path):
    long = tiny_model.write_model(
        folders.load_model(made["student"]),
        made["teacher"],
        tmp_path / "long",
        network=attrs.evolve(tiny_model.NETWORK, max_position_embeddings=16),
    )
    with pytest.raises(RecipeError, match=r"objective\.sequence_length: 32 exceeds"):
        distilled(section(network=None), made | {"student": long}, tmp_path / "run")


@pytest.mark.slow
def test_an_encoder_is_saved_as_one_with_the_dropout_that_it_was_published_with(masked, tmp_path):
    found = distilled(section(network=None), masked, tmp_path)
    # A process of its own computes the same, or this fails.
    save_and_verify(
        student_of(found),
        saving.save,
        tmp_path / "model",
        cards.read(masked["student"], ModelCard),
        tokenizer=masked["student"],
        generation=masked["student"],
        probe=folders.windows(found.job.open_tokens("train"), [0], LENGTH)[:, :-1],
        scratch=tmp_path,
    )
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    assert model.config.hidden_dropout_prob == 0.5
    assert all(weights(found)[name].equal(weight) for name, weight in model.state_dict().items())
