"""What layers hand on is compared as it is said, learned as in a plain loop, and leaves nothing in what is saved."""

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from tiny_distillation import (
    SMALLER,
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
from torch import nn
from transformers import LlamaForCausalLM

from llmrecipe import Steps, artifacts, distil, evolve
from llmrecipe.engines.finetuning.distillation import saving
from llmrecipe.engines.finetuning.distillation.batches import Reader, heldout_batches, training_batches
from llmrecipe.engines.finetuning.distillation.hidden import Matching, matched
from llmrecipe.engines.finetuning.distillation.launcher import student_of
from llmrecipe.engines.models import folders
from llmrecipe.errors import StageError

HIDDEN = distil.HiddenStates(weight=3.0)
PROJECTION = "hidden_states_projection.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher of 64 channels and two layers, and its tokens."""
    inputs = tiny_model.make(tmp_path_factory.mktemp("made"))
    return {"teacher": inputs["model"], "tokens": inputs["tokens"]}


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    """Of a student of 32 channels and one layer."""
    return distilled(section(hidden_states=HIDDEN), made, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    return make_masked(tmp_path_factory.mktemp("masked"))


def test_layers_are_matched_evenly_and_the_last_with_the_last():
    assert matched(2, 4) == [(0, 1), (1, 3)]
    assert matched(3, 4) == [(0, 0), (1, 2), (2, 3)]
    assert matched(2, 5) == [(0, 2), (1, 4)]
    assert matched(4, 2) == [(1, 0), (3, 1)]
    assert matched(1, 30) == [(0, 29)]
    assert matched(3, 3) == [(0, 0), (1, 1), (2, 2)]
    for student in range(1, 12):
        for teacher in range(1, 12):
            mine, its = zip(*matched(student, teacher), strict=True)
            assert sorted({*mine}) == [*mine]
            assert sorted({*its}) == [*its]
            assert (len(mine), mine[-1], its[-1]) == (min(student, teacher), student - 1, teacher - 1)


class Watched(nn.Module):
    """A Llama that remembers what transformers calls its hidden states; the last before the norm that follows."""

    def __init__(self, model: LlamaForCausalLM, wide: int | None = None) -> None:
        super().__init__()
        self.model = model
        model.model.norm.register_forward_pre_hook(lambda _, given: self.last.append(given[0]))
        if wide is not None:
            drawn = torch.randn(wide, 32, generator=torch.Generator().manual_seed(TRAINING.seed))
            self.projection = nn.Parameter(drawn / 32**0.5)

    def forward(self, input_ids: torch.Tensor):
        self.last: list[torch.Tensor] = []
        output = self.model(input_ids=input_ids, output_hidden_states=True)
        self.states = [*output.hidden_states[1:-1], *self.last]
        return output


def error(mine: torch.Tensor, its: torch.Tensor) -> torch.Tensor:
    return ((mine - its).pow(2).sum(-1) / its.pow(2).sum(-1)).mean()


def forward(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    return kl(teacher.double().softmax(-1), student.double().softmax(-1)).mean()


def test_a_narrower_student_learns_as_in_a_plain_loop_with_its_projection(made, run):
    torch.manual_seed(TRAINING.seed)
    student = Watched(LlamaForCausalLM(student_of(run).config), wide=64)
    teacher = Watched(folders.load_model(made["teacher"]).requires_grad_(False))

    def both(mine, its, _):
        # Its only layer with the teacher's last.
        return forward(mine, its) + 3 * error(student.states[0] @ student.projection.T, teacher.states[1])

    assert column(run, "loss") == pytest.approx(plain_losses(student, teacher, made["tokens"], both), rel=1e-5)
    learned = load_file(run.state.checkpoint(6) / "weights.safetensors")[PROJECTION]
    torch.testing.assert_close(learned, student.projection.detach(), rtol=0, atol=3e-4)


def test_a_student_of_its_teachers_width_needs_no_projection(made, tmp_path):
    wide = evolve(SMALLER, hidden_size=64, num_layers=2)
    found = distilled(section(network=wide, hidden_states=HIDDEN), made, tmp_path)
    torch.manual_seed(TRAINING.seed)
    student = Watched(LlamaForCausalLM(student_of(found).config))
    teacher = Watched(folders.load_model(made["teacher"]).requires_grad_(False))

    def both(mine, its, _):
        return forward(mine, its) + 3 * sum(map(error, student.states, teacher.states)) / 2

    assert column(found, "loss") == pytest.approx(plain_losses(student, teacher, made["tokens"], both), rel=1e-5)
    assert load_file(found.state.checkpoint(6) / "weights.safetensors").keys() <= weights(found).keys()


def test_the_loss_on_held_out_text_knows_the_projection(made, run):
    job = evolve(run.job, section__parallelism__micro_batch_size=10)
    batch = next(heldout_batches(Reader.of(job, "heldout"), job, 0))[0]["input_ids"]
    student, teacher = Watched(student_of(run)), Watched(folders.load_model(made["teacher"]))
    projection = load_file(run.state.checkpoint(6) / "weights.safetensors")[PROJECTION]
    with torch.no_grad():
        mine, its = (model(input_ids=batch).logits[..., :320] for model in (student, teacher))
        expected = forward(mine, its) + 3 * error(student.states[0] @ projection.T, teacher.states[1])
    assert column(run, "validation_loss")[-1] == pytest.approx(expected.item(), rel=1e-5)


def test_masked_students_are_compared_at_masked_places_alone(masked, tmp_path):
    found = distilled(section(network=None, hidden_states=HIDDEN), masked, tmp_path)
    job = evolve(found.job, section__parallelism__micro_batch_size=TRAINING.global_batch_size)
    first = next(training_batches(Reader.of(job, "train"), job, 0))
    student, teacher = (folders.load_model(masked[role]) for role in ("student", "teacher"))
    with torch.no_grad():
        mine, its = (model(input_ids=first["input_ids"], output_hidden_states=True) for model in (student, teacher))
    places = first["labels"] != -100
    assert len(mine.hidden_states) == 3
    pairs = zip(mine.hidden_states[1:], its.hidden_states[1:], strict=True)
    errors = [error(one[places], other[places]) for one, other in pairs]
    expected = forward(mine.logits[places], its.logits[places]) + 3 * sum(errors) / 2
    assert column(found, "loss")[0] == pytest.approx(expected.item(), rel=1e-5)
    parts = distilled(section(network=None, hidden_states=HIDDEN, micro_batch_size=1), masked, tmp_path / "parts")
    assert column(parts, "loss") == pytest.approx(column(found, "loss"), rel=1e-5)


@pytest.mark.parametrize("size", [2, 8])
def test_a_batch_in_parts_teaches_the_same(made, tmp_path, run, size):
    found = distilled(section(hidden_states=HIDDEN, micro_batch_size=size), made, tmp_path)
    for name in ("loss", "grad_norm", "validation_loss"):
        assert column(found, name) == pytest.approx(column(run, name), rel=1e-5)


def test_a_run_goes_on_exactly_with_its_projection(made, tmp_path, run):
    distilled(section(hidden_states=HIDDEN), made, tmp_path, checkpoint_interval=4)
    (folder,) = tmp_path.glob("*/checkpoints")
    artifacts.write_text(folder / "6" / "weights.safetensors", "damaged")
    resumed = distilled(section(hidden_states=HIDDEN), made, tmp_path, checkpoint_interval=4)
    assert resumed.metrics == run.metrics
    for file in ("weights.safetensors", "optimizer.safetensors"):
        digests = {artifacts.file_digest(each.state.checkpoint(6) / file) for each in (resumed, run)}
        assert len(digests) == 1


def test_a_narrower_student_comes_to_compute_what_its_teacher_does_and_is_saved_without_the_projection(made, tmp_path):
    what = with_training(
        # So much that next to nothing else counts.
        section(hidden_states=distil.HiddenStates(weight=1e4)),
        duration=Steps(20),
        validation_interval=10,
    )
    found = distilled(what, made, tmp_path)
    before, after = column(found, "loss")[0], column(found, "validation_loss")[-1]
    # As if it handed on nothing, it would be 1.
    assert before > 1e4
    assert after < 0.8e4
    saving.save(student_of(found), tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert names == LlamaForCausalLM(student_of(found).config).state_dict().keys()


def test_a_model_without_layers_in_a_list_is_refused(made):
    teacher = folders.load_model(made["teacher"])
    student = folders.load_model(made["teacher"])
    student.config.num_hidden_layers = 7
    with pytest.raises(
        StageError, match=r"LlamaForCausalLM has no list of its 7 layers, which adapters, hidden_states"
    ):
        Matching.of(student, teacher, 1.0, 0)
