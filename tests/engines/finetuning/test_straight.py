"""A quantized student learns through its own rounding, and what is saved of it is what it computes."""

from contextlib import nullcontext

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from tiny_distillation import column, distilled, section, with_training

from llmrecipe import Steps, artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.finetuning import saving
from llmrecipe.engines.finetuning.models import first_student, learning, straight
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokenizing.folders import copy_files
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.schedule import Constant
from llmrecipe.recipe.scheme import FP8, W3A16, W8A8, RoundToNearest
from llmrecipe.sections import QuantizeSection

pytestmark = pytest.mark.slow

PLAIN = {"observer": "minmax", "rounding": RoundToNearest()}
SCHEMES = {
    "w3a16": W3A16(group_size=32, **PLAIN),
    "w3a16-asymmetric": W3A16(group_size=32, symmetric=False, **PLAIN),
    "w8a8": W8A8(rounding=RoundToNearest()),
    "fp8": FP8(),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher and its tokens, and by scheme what it is in fewer bits."""
    folder = tmp_path_factory.mktemp("made")
    inputs = tiny_model.make(folder)
    source, sequences = inputs["model"], folders.windows(Tokens.of(inputs).open("train"), range(4), 32)[:, :-1]
    for name, how in SCHEMES.items():
        model = folders.load_model(source)
        what = QuantizeSection(scheme=how, calibration_samples=4, seed=0)
        rows = sequences if quantization.needs_calibration(what, model) else sequences[:0]
        quantization.quantize(model, folders.load_tokenizer(source), what, rows, torch.device("cpu"))
        quantization.save_compressed(model, folder / name)
        copy_files(source, folder / name)
        cards.write(folder / name, cards.read(source, ModelCard))
        artifacts.seal(folder / name, "model")
    return {"teacher": source, "tokens": inputs["tokens"], **{name: folder / name for name in SCHEMES}}


def run(made, name, scratch):
    what = with_training(
        section(network=None, micro_batch_size=8),
        optimizer=AdamW(learning_rate=3e-4, weight_decay=0.0),
        duration=Steps(20),
        schedule=Constant(warmup=Steps(0)),
        validation_interval=1,
    )
    inputs = {"teacher": made["teacher"], "tokens": made["tokens"], "student": made[name]}
    return distilled(what, inputs, scratch)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_student_begins_as_it_was_quantized_bit_for_bit(made, tmp_path, name):
    job = run_job(made, name, tmp_path)
    tokens = folders.windows(job.open_tokens("train"), [0, 1], 32)
    expected = folders.logits(folders.load_model(made[name]), tokens)
    assert folders.logits(first_student(job), tokens).equal(expected)
    assert not any("scale" in each or "zero_point" in each for each in learning(first_student(job)))


def run_job(made, name, folder):
    inputs = {"teacher": made["teacher"], "tokens": made["tokens"], "student": made[name]}
    what = with_training(section(network=None), duration=Steps(1), schedule=Constant(warmup=Steps(0)))
    return distilled(what, inputs, folder).job


@pytest.mark.parametrize("name", ["w3a16", "w3a16-asymmetric"])
def test_rounded_weights_come_nearer_to_the_teacher_and_stay_rounded(made, tmp_path, name):
    found = run(made, name, tmp_path)
    losses = column(found, "validation_loss")
    assert losses[-1] < 0.9 * losses[0]
    student = found.student()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # A process of its own computes bit for bit what was trained, or this fails.
    saving.save_and_verify(
        student,
        tmp_path / "model",
        cards.read(made[name], ModelCard),
        tokenizer=made[name],
        generation=made[name],
        probe=folders.windows(found.job.open_tokens("train"), [0], 32)[:, :-1],
        device="cpu",
        scratch=scratch,
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (made[name], tmp_path / "model"))
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in before.items()} == {
        key: (tensor.dtype, tensor.shape) for key, tensor in after.items()
    }
    changed = {key for key in before if not before[key].equal(after[key])}
    assert any(key.endswith("weight_packed") for key in changed)
    assert not any(key.endswith(("weight_scale", "weight_zero_point", "weight_shape")) for key in changed)
    assert (made[name] / "config.json").read_bytes() == (tmp_path / "model" / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["w8a8", "fp8"])
def test_gradients_pass_the_rounding_of_activations(made, tmp_path, name):
    job = run_job(made, name, tmp_path)
    tokens = folders.windows(job.open_tokens("train"), [0, 1], 32)[:, :-1]

    def gradients(model, context=None):
        with context or nullcontext():
            model(input_ids=tokens).logits.square().mean().backward()
        found = {key: weight.grad for key, weight in model.named_parameters() if key.endswith("proj.weight")}
        return {key: gradient for key, gradient in found.items() if gradient is not None}

    through = gradients(first_student(job), straight().straight_through())
    assert len(through) == 14
    # compressed-tensors ends them at the first rounding that they meet: this is what is mended.
    assert len(gradients(first_student(job))) < 14
    # In 8 bits, what is computed is next to what would be without: the same weights, and no rounding.
    dense = first_student(job)
    for module in dense.modules():
        module.quantization_enabled = False
    for key, gradient in gradients(dense).items():
        assert torch.cosine_similarity(gradient.flatten(), through[key].flatten(), dim=0) > 0.98


def test_activations_are_rounded_as_compressed_tensors_rounds_them(made, tmp_path):
    job = run_job(made, "fp8", tmp_path)
    tokens = folders.windows(job.open_tokens("train"), [0], 32)
    student = first_student(job)
    expected = student(input_ids=tokens).logits
    with straight().straight_through():
        assert student(input_ids=tokens).logits.equal(expected)
