"""What is stored of a teacher's predictions is what it predicts, and a student learns from it as from the teacher."""

import attrs
import numpy as np
import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from tiny_distillation import SMALLER, column, distilled, make_masked, section, with_training

from llmrecipe import artifacts, cards, distil
from llmrecipe.cards import PredictionsCard
from llmrecipe.engines.finetuning.distillation import losses, predictions, worker
from llmrecipe.engines.finetuning.distillation.batches import Reader, training_batches
from llmrecipe.engines.finetuning.distillation.losses import summed_loss
from llmrecipe.engines.finetuning.distillation.predictions import classes, top
from llmrecipe.engines.models import folders
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.sections import PredictSection
from llmrecipe.stages import predict

TOKENS, SIZE = 7, 11
DIVERGENCES = (distil.ForwardKL(), distil.ReverseKL(), distil.JensenShannon())


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(TOKENS, SIZE, generator=torch.Generator().manual_seed(seed))


LABELS = torch.arange(TOKENS)


def stored_loss(loss, top_k, student, teacher):
    ids, likely = top(teacher, top_k)
    return summed_loss(loss, 0.25, student, likely, LABELS, ids)


@pytest.mark.parametrize("loss", DIVERGENCES, ids=str)
def test_with_all_tokens_nothing_is_lost(loss):
    student, teacher = logits(0).requires_grad_(), logits(1)
    whole, stored = summed_loss(loss, 0.25, student, teacher, LABELS), stored_loss(loss, SIZE, student, teacher)
    assert stored.item() == pytest.approx(whole.item(), rel=1e-6)
    gradients = [torch.autograd.grad(each, student)[0] for each in (stored, whole)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", DIVERGENCES, ids=str)
def test_with_fewer_tokens_it_is_never_more(loss):
    found = [stored_loss(loss, top_k, logits(0), logits(1)).item() for top_k in range(1, SIZE + 1)]
    assert found == sorted(found)
    assert found[0] < found[-1] - 0.1


def test_the_rest_counts_as_one_token_more(monkeypatch):
    student, teacher = (np.exp(each.double().log_softmax(-1).numpy()) for each in (logits(0), logits(1)))
    expected = 0.0
    for mine, its in zip(student, teacher, strict=True):
        kept = np.argsort(-its)[:3]
        pairs = [*zip(mine[kept], its[kept], strict=True), (1 - mine[kept].sum(), 1 - its[kept].sum())]
        expected += sum(q * np.log(q / p) for p, q in pairs)
    ids, likely = top(logits(1), 3)
    # In pieces as well.
    for at_once in (1 << 20, 2 * SIZE):
        monkeypatch.setitem(losses._AT_ONCE, "cpu", at_once)
        found = summed_loss(distil.ForwardKL(), 0.0, logits(0), likely, LABELS, ids)
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_what_is_next_to_certain_has_a_rest_as_well():
    certain = torch.zeros(1, SIZE)
    certain[0, 4] = 60.0
    ids, likely = top(certain, 1)
    assert ids.tolist() == [[4]]
    assert likely[0, 1].item() == pytest.approx(np.log(SIZE - 1) - 60, rel=1e-6)
    student = certain.clone().requires_grad_()
    loss = summed_loss(distil.ReverseKL(), 0.0, student, likely, LABELS[4:5], ids)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.isfinite().all()
    assert classes(certain.log_softmax(-1), ids).equal(likely)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher and its tokens."""
    inputs = tiny_model.make(tmp_path_factory.mktemp("made"))
    return {"teacher": inputs["model"], "tokens": inputs["tokens"]}


@pytest.fixture(scope="module")
def live(made, tmp_path_factory):
    return distilled(section(), made, tmp_path_factory.mktemp("live"))


def predicted(inputs, folder, top_k, **changes):
    """The inputs with what the teacher predicts of them for the run of `section()`."""
    what = PredictSection(**{"top_k": top_k, "sequences": 48, "seed": 5, "validation_sequences": 10} | changes)
    given = {role: inputs[role] for role in ("teacher", "tokens")}
    folder.mkdir(parents=True)
    predict.run(tiny_model.stage_context(what, given, folder))
    return {**inputs, "predictions": folder / "predictions"}


def stored(top_k, **words):
    return section(teacher_logits=distil.Stored(top_k=top_k), **words)


def test_what_is_stored_is_what_the_teacher_predicts_in_the_order_of_the_run(made, live, tmp_path, monkeypatch):
    # Five sequences a file.
    monkeypatch.setattr(predictions, "_FILE_BYTES", 5 * 32 * 68)
    folder = predicted(made, tmp_path / "out", 8)["predictions"]
    artifacts.verify(folder, "predictions")
    assert len(list((folder / "train").iterdir())) == 10
    assert len(list((folder / "heldout").iterdir())) == 2
    assert cards.read(folder, PredictionsCard).sequences == {"train": 48, "heldout": 10}
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert artifacts.read_json(tmp_path / "out" / "metrics.json")["bytes"] == size
    assert size == pytest.approx(58 * 32 * (8 * 8 + 4), rel=0.1)
    last = load_file(folder / "train" / "00009.safetensors")
    assert last["starts"].tolist() == [0, 32, 64, 96]
    reader = Reader.of(live.job, "train")
    windows = reader.files.order(32, 5).windows(45, 3)
    rows = torch.from_numpy(np.stack([reader.files.window(window, 32)[:32].astype(np.int64) for window in windows]))
    with torch.no_grad():
        found = folders.load_model(made["teacher"])(input_ids=rows).logits[..., :320].log_softmax(-1).flatten(0, 1)
    torch.testing.assert_close(last["log_probabilities"][:, :8], found.topk(8).values, rtol=1e-4, atol=1e-5)
    assert (found.gather(-1, last["ids"].long()) - last["log_probabilities"][:, :8]).abs().max() < 1e-4
    rest = 1 - last["log_probabilities"][:, :8].exp().sum(-1)
    torch.testing.assert_close(last["log_probabilities"][:, 8].exp(), rest, rtol=1e-3, atol=1e-5)
    # Over the ends of files.
    reader = attrs.evolve(reader, predictions=predictions.StoredPredictions(folder / "train", 5))
    parts = [load_file(folder / "train" / f"{number:05}.safetensors")["ids"] for number in range(10)]
    assert reader.predicted(3, 9)["teacher_ids"].equal(torch.cat(parts)[96 : 12 * 32])


def test_the_same_predictions_are_the_same_bytes(made, tmp_path):
    one, other = (predicted(made, tmp_path / name, 8)["predictions"] for name in ("one", "other"))
    assert artifacts.file_digest(one / "manifest.json") == artifacts.file_digest(other / "manifest.json")


@pytest.fixture
def without_teacher(monkeypatch):
    """A worker that can't load one."""

    def refuse(_):
        raise AssertionError("the teacher is loaded")

    monkeypatch.setattr(worker, "load_teacher", refuse)


def test_a_student_learns_from_all_that_is_stored_as_from_the_teacher(made, live, tmp_path, without_teacher):
    found = distilled(stored(320), predicted(made, tmp_path / "out", 320), tmp_path / "run")
    for name in ("loss", "grad_norm", "validation_loss"):
        assert column(found, name) == pytest.approx(column(live, name), rel=1e-4)


def test_a_student_learns_from_a_part_and_goes_on_exactly(made, live, tmp_path, without_teacher):
    inputs = predicted(made, tmp_path / "out", 16)
    found = distilled(stored(16), inputs, tmp_path / "run")
    assert column(found, "loss")[0] < column(live, "loss")[0]
    parts = distilled(stored(16, micro_batch_size=1), inputs, tmp_path / "parts")
    assert column(parts, "loss") == pytest.approx(column(found, "loss"), rel=1e-5)
    distilled(stored(16), inputs, tmp_path / "again", checkpoint_interval=4)
    (folder,) = (tmp_path / "again").glob("*/checkpoints")
    artifacts.write_text(folder / "6" / "weights.safetensors", "damaged")
    resumed = distilled(stored(16), inputs, tmp_path / "again", checkpoint_interval=4)
    assert resumed.metrics == found.metrics
    digests = {artifacts.file_digest(run.state.checkpoint(6) / "weights.safetensors") for run in (found, resumed)}
    assert len(digests) == 1


def test_ranks_read_together_what_one_reads(made, live, tmp_path):
    inputs = predicted(made, tmp_path / "out", 4)
    job = attrs.evolve(live.job, section=stored(4, data=2, micro_batch_size=2), predictions=str(inputs["predictions"]))
    reader = Reader.of(job, "train")
    each = [training_batches(reader, attrs.evolve(job, resumed=1), rank) for rank in (0, 1)]
    ids = [next(batches)["teacher_ids"] for _ in range(2) for batches in each]
    assert torch.cat(ids).equal(reader.predicted(8, 8)["teacher_ids"])


def test_of_masked_students_the_masked_places_alone_are_stored(tmp_path, without_teacher):
    inputs = make_masked(tmp_path / "made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "load_teacher", folders.load_model)
        asked = distilled(section(network=None), inputs, tmp_path / "live")
    given = predicted(inputs, tmp_path / "out", 320)
    found = distilled(stored(320, network=None), given, tmp_path / "run")
    assert column(found, "loss") == pytest.approx(column(asked, "loss"), rel=1e-4)
    assert column(found, "validation_loss") == pytest.approx(column(asked, "validation_loss"), rel=1e-4)
    starts = load_file(given["predictions"] / "train" / "00000.safetensors")["starts"]
    assert 0 < starts[-1] < 0.2 * 48 * 32


def test_predictions_for_another_run_are_refused(made, tmp_path):
    for name, changes in (("seed", {"seed": 6}), ("sequences", {"sequences": 40}), ("top_k", {"top_k": 5})):
        inputs = predicted(made, tmp_path / name, **{"top_k": 4} | changes)
        with pytest.raises(StageError, match=f"predictions for another run, of another {name}; run"):
            distilled(stored(4), inputs, tmp_path / f"{name}-run")
    inputs = predicted(made, tmp_path / "right", 4)
    with pytest.raises(StageError, match="of another sequences"):
        distilled(with_training(stored(4), validation_sequences=9), inputs, tmp_path / "run")


def test_more_tokens_than_there_are_can_not_be_named(made, tmp_path):
    with pytest.raises(StageError, match=r"top_k: 321 of the 320 tokens of .*; use at most 320"):
        predicted(made, tmp_path / "out", 321)


def test_a_section_that_an_experiment_has_changed_obeys_the_rules(made, tmp_path):
    inputs = predicted(made, tmp_path / "out", 4)
    warm = stored(4, loss=distil.ForwardKL(temperature=2.0), network=SMALLER)
    with pytest.raises(RecipeError, match=r"t-distil\.loss\.temperature: 2 is for all logits"):
        distilled(warm, inputs, tmp_path / "run")
