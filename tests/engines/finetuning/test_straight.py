"""A quantized student learns through its own rounding, and what is saved of it is what it computes."""

from contextlib import nullcontext

import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from tiny_distillation import column, distilled, section, with_training
from transformers import AutoModelForCausalLM

from llmrecipe import Steps, artifacts, cards, distil, evolve
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.compression.saving import save_and_verify
from llmrecipe.engines.finetuning.distillation import saving
from llmrecipe.engines.finetuning.distillation.launcher import student_of
from llmrecipe.engines.finetuning.distillation.models import first_student
from llmrecipe.engines.finetuning.learning import learning, scaled_layers, straight
from llmrecipe.engines.finetuning.optimizing import optimizer_of
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokenizing.folders import copy_files
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.recipe.optimizer import AdamW
from llmrecipe.recipe.schedule import Constant
from llmrecipe.recipe.scheme import FP8, W3A16, W4A16, W8A8, RoundToNearest
from llmrecipe.sections import QuantizeSection
from llmrecipe.stages import distil as distil_stage
from llmrecipe.stages import quantize

pytestmark = pytest.mark.slow

PLAIN = {"observer": "minmax", "rounding": RoundToNearest()}
SCHEMES = {
    "w3a16": W3A16(group_size=32, **PLAIN),
    "w3a16-asymmetric": W3A16(group_size=32, symmetric=False, **PLAIN),
    "w8a8": W8A8(rounding=RoundToNearest()),
    "fp8": FP8(),
}
SECTIONS = {
    **{name: QuantizeSection(scheme=how, calibration_samples=4, seed=0) for name, how in SCHEMES.items()},
    "kv8": QuantizeSection(scheme=SCHEMES["w3a16"], kv_cache="float8", calibration_samples=4, seed=0),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A teacher and its tokens, and by scheme what it is in fewer bits."""
    folder = tmp_path_factory.mktemp("made")
    inputs = tiny_model.make(folder)
    source, sequences = inputs["model"], folders.windows(Tokens.of(inputs).open("train"), range(4), 32)[:, :-1]
    for name, what in SECTIONS.items():
        model = folders.load_model(source)
        rows = sequences if quantization.needs_calibration(what, model) else sequences[:0]
        quantization.quantize(model, folders.load_tokenizer(source), what, rows, torch.device("cpu"))
        quantization.save_compressed(model, folder / name)
        copy_files(source, folder / name)
        cards.write(folder / name, cards.read(source, ModelCard))
        artifacts.seal(folder / name, "model")
    return {"teacher": source, "tokens": inputs["tokens"], **{name: folder / name for name in SECTIONS}}


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
    names = [each.rpartition(".")[2] for each in learning(first_student(job))]
    assert {*names} == {"weight", "weight_scale"}
    assert names.count("weight_scale") == 14


def run_job(made, name, folder):
    return one_step(made, name, folder).job


def one_step(made, name, folder):
    inputs = {"teacher": made["teacher"], "tokens": made["tokens"], "student": made[name]}
    what = with_training(section(network=None), duration=Steps(1), schedule=Constant(warmup=Steps(0)))
    return distilled(what, inputs, folder)


@pytest.mark.parametrize("name", ["w3a16", "w3a16-asymmetric"])
def test_rounded_weights_come_nearer_to_the_teacher_and_stay_rounded(made, tmp_path, name):
    found = run(made, name, tmp_path)
    losses = column(found, "validation_loss")
    assert losses[-1] < 0.9 * losses[0]
    student = student_of(found)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # A process of its own computes bit for bit what was trained, or this fails.
    save_and_verify(
        student,
        saving.save,
        tmp_path / "model",
        cards.read(made[name], ModelCard),
        tokenizer=made[name],
        generation=made[name],
        probe=folders.windows(found.job.open_tokens("train"), [0], 32)[:, :-1],
        scratch=scratch,
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (made[name], tmp_path / "model"))
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in before.items()} == {
        key: (tensor.dtype, tensor.shape) for key, tensor in after.items()
    }
    changed = {key for key in before if not before[key].equal(after[key])}
    assert {key for key in before if key.endswith("weight_scale")} <= changed
    assert any(key.endswith("weight_packed") for key in changed)
    assert not any(key.endswith(("weight_zero_point", "weight_shape")) for key in changed)
    assert (made[name] / "config.json").read_bytes() == (tmp_path / "model" / "config.json").read_bytes()


@pytest.mark.parametrize("name", ["fp8", "kv8"])
def test_what_rounds_more_than_weights_is_saved_as_it_was_trained(made, tmp_path, name):
    found = one_step(made, name, tmp_path / "run")
    (tmp_path / "scratch").mkdir()
    save_and_verify(
        student_of(found),
        saving.save,
        tmp_path / "model",
        cards.read(made[name], ModelCard),
        tokenizer=made[name],
        generation=made[name],
        probe=folders.windows(found.job.open_tokens("train"), [0], 32)[:, :-1],
        scratch=tmp_path / "scratch",
    )
    assert artifacts.is_artifact(tmp_path / "model")


@pytest.mark.parametrize("name", ["w8a8", "fp8", "kv8"])
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


@pytest.mark.parametrize("name", SCHEMES)
def test_scales_have_the_gradient_of_learned_steps(made, tmp_path, name):
    """Compared with what autograd makes of the rounding written out, for the layer's own output."""
    student = first_student(run_job(made, name, tmp_path))
    layer = student.model.layers[1].mlp.down_proj
    form, generator = layer.quantization_scheme.weights, torch.Generator().manual_seed(0)
    # Where it has learned, some weights are clipped, and none lies on its grid any more.
    layer.weight.data *= 1 + 0.5 * torch.rand(layer.weight.shape, generator=generator)
    upstream = torch.randn(layer.weight.shape, generator=generator)
    layer.weight.grad = upstream.clone()
    straight().pass_to_scales([layer])

    weight, scale = (each.detach().clone().requires_grad_() for each in (layer.weight, layer.weight_scale))
    zero_point = getattr(layer, "weight_zero_point", torch.zeros_like(scale)).float()
    each = weight.shape[1] // scale.shape[1]
    spread, shift = (part.repeat_interleave(each, 1) for part in (scale, zero_point))
    half = 2 ** (form.num_bits - 1)
    low, high = (-448.0, 448.0) if name == "fp8" else (-half, half - 1)
    value = (weight / spread + shift).clamp(low, high)
    rounded = value.detach().to(torch.float8_e4m3fn).float() if name == "fp8" else value.detach().round()
    ((value + (rounded - value).detach() - shift) * spread * upstream).sum().backward()
    torch.testing.assert_close(layer.weight_scale.grad, scale.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    assert (layer.weight.grad == 0).any()


def test_the_largest_weight_moves_as_far_by_its_scale_as_by_itself(made, tmp_path):
    student = first_student(run_job(made, "w3a16", tmp_path))
    groups = optimizer_of(student, AdamW(learning_rate=0.3, weight_decay=0.1)).param_groups
    assert [(group["weight_decay"], group["lr"]) for group in groups] == [
        (0.1, 0.3),
        (0.0, 0.3),
        (0.0, pytest.approx(0.1)),
    ]
    assert {id(scale) for scale in groups[2]["params"]} == {id(layer.weight_scale) for layer in scaled_layers(student)}


@pytest.mark.parametrize("hidden_states", [None, distil.HiddenStates()], ids=["", "hidden"])
def test_a_rounded_student_goes_on_exactly(made, tmp_path, hidden_states):
    inputs = {"teacher": made["teacher"], "tokens": made["tokens"], "student": made["w3a16"]}
    what = section(network=None, hidden_states=hidden_states)
    straight_on = distilled(what, inputs, tmp_path / "straight")
    distilled(what, inputs, tmp_path / "again", checkpoint_interval=4)
    (folder,) = (tmp_path / "again").glob("*/checkpoints")
    artifacts.write_text(folder / "6" / "weights.safetensors", "damaged")
    resumed = distilled(what, inputs, tmp_path / "again", checkpoint_interval=4)
    assert resumed.metrics == straight_on.metrics
    files = {artifacts.file_digest(run.state.checkpoint(6) / "weights.safetensors") for run in (straight_on, resumed)}
    assert len(files) == 1


def test_zeros_of_a_pruned_model_stay_through_rounding_and_learning(made, tmp_path):
    dense, places = folders.load_model(made["teacher"]), {}
    for name, module in dense.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = module.weight.detach().clone()
            places[name] = weight.abs() < weight.abs().median()
            module.weight = torch.nn.Parameter(weight.masked_fill(places[name], 0))
    sparse = tiny_model.write_model(dense, made["teacher"], tmp_path / "sparse")
    cards.write(sparse, evolve(cards.read(sparse, ModelCard), sparse=True))
    artifacts.seal(sparse, "model")
    inputs = {"teacher": made["teacher"], "tokens": made["tokens"]}

    what = QuantizeSection(scheme=W4A16(group_size=32), calibration_samples=8, seed=0)
    quantize.run(tiny_model.stage_context(what, inputs | {"model": sparse}, tmp_path / "quantized"))
    lesson = with_training(section(network=None), optimizer=AdamW(learning_rate=3e-3))
    both = inputs | {"student": tmp_path / "quantized" / "model"}
    distil_stage.run(tiny_model.stage_context(lesson, both, tmp_path / "taught", device="cpu"))

    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / stage / "model") for stage in ("quantized", "taught")
    )
    for model in (before, after):
        model(torch.tensor([[1]]))  # Weights are expanded when they are first needed.
    for name, at in places.items():
        one, other = (model.get_submodule(name).weight for model in (before, after))
        assert (other[at].view(torch.int32) == 0).all()
        assert not other.equal(one)
