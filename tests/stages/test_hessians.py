"""Hessians that are gathered once serve every scheme as the text itself would."""

import pytest
import tiny_model
import torch
from llmcompressor import oneshot
from safetensors.torch import load_file
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrecipe import artifacts, cards
from llmrecipe.cards import HessiansCard, ModelCard
from llmrecipe.engines.compression import quantization, reloading
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import linear_layers, ours
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.hessians import hessians_bytes
from llmrecipe.recipe.scheme import AWQ, FP8, GPTQ, W4A16, W8A8, RoundToNearest
from llmrecipe.sections import HessiansSection, QuantizeSection
from llmrecipe.stages import hessians, quantize

SAMPLES = 32
SCHEMES = {
    "w4a16": W4A16(group_size=32, observer="mse"),
    "w4a16-importance": W4A16(group_size=32),
    "w4a16-nearest": W4A16(group_size=32, rounding=RoundToNearest()),
    "w8a8": W8A8(smoothing_strength=None),
    "fp8": FP8(rounding=GPTQ()),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    inputs = tiny_model.make(folder)
    section = HessiansSection(calibration_samples=SAMPLES, seed=1)
    hessians.run(tiny_model.stage_context(section, inputs, folder / "gathered"))
    return inputs | {"hessians": folder / "gathered/hessians"}


@pytest.fixture(autouse=True)
def loaded_here(monkeypatch):
    """Spare a process for each model that is loaded again."""
    monkeypatch.setattr(
        reloading, "logits_in_a_fresh_process", lambda folder, ids, scratch: reloading.plain_logits(folder, ids)
    )


def section(scheme, samples=SAMPLES, seed=1) -> QuantizeSection:
    return QuantizeSection(scheme=scheme, calibration_samples=samples, seed=seed)


def rows(made) -> torch.Tensor:
    text = CalibrationText(
        tokens=TokenMixture.open([made["tokens"]], "train", (1.0,)),
        sequence_length=tiny_model.SEQUENCE_LENGTH,
        samples=SAMPLES,
        seed=1,
    )
    return text.sequences()


def gathered(made) -> dict[str, torch.Tensor]:
    """By linear layer, the Hessian of what it reads."""
    found = {}
    for file in sorted(made["hessians"].glob("*.safetensors")):
        found |= load_file(file)
    return {layer: found[name] for layer, name in cards.read(made["hessians"], HessiansCard).inputs.items()}


def test_a_hessian_is_twice_the_sum_of_products_of_what_a_layer_reads(made):
    model = AutoModelForCausalLM.from_pretrained(made["model"], dtype=torch.float64)
    sums = {}

    def add(name):
        def hook(module, arguments):
            read = arguments[0].flatten(0, -2)
            sums[name] = sums.get(name, 0) + 2 * read.T @ read

        return hook

    for name, layer in linear_layers(model).items():
        layer.register_forward_pre_hook(add(name))
    with torch.no_grad():
        model(rows(made))
    found = gathered(made)
    assert found.keys() == sums.keys()
    for name, expected in sums.items():
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_layers_that_read_the_same_share_a_hessian(made):
    stored = sum(file.stat().st_size for file in made["hessians"].glob("*.safetensors"))
    card = cards.read(made["hessians"], HessiansCard)
    assert (len(card.inputs), len(set(card.inputs.values()))) == (14, 8)
    headers = 1_000
    assert 0 < stored - hessians_bytes(cards.read(made["model"], ModelCard).network) < headers * 2


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_rounds_by_them_as_llmcompressor_does_by_the_text_without_propagating_errors(made, tmp_path, name):
    asked = section(SCHEMES[name])
    quantize.run(tiny_model.stage_context(asked, made, tmp_path / "ours"))
    model = AutoModelForCausalLM.from_pretrained(made["model"], dtype=torch.float32)
    recipe = ours("modifiers").modifiers(asked, linear_layers(model), ["lm_head"], 64)
    batches = DataLoader(
        [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows(made)], batch_size=8
    )
    with ours("fallbacks").counted(), ours("scales").rounded():
        tokenizer = AutoTokenizer.from_pretrained(made["model"])
        oneshot(model=model, tokenizer=tokenizer, recipe=recipe, dataset=batches, propagate_error=False)
    quantization.save_compressed(model, tmp_path / "theirs")
    found, expected = (load_file(tmp_path / side / "model.safetensors") for side in ("ours/model", "theirs"))
    assert found.keys() == expected.keys()
    differing = {key for key, tensor in found.items() if not torch.equal(tensor, expected[key])}
    if "imatrix" in str(SCHEMES[name]):
        # The diagonal is summed in another order there, which may choose another scale of nearly the same error.
        differing = {key for key in differing if (found[key] != expected[key]).float().mean() > 0.02}
    assert not differing


def test_errors_that_are_propagated_give_another_model(made, tmp_path):
    asked, text = section(SCHEMES["w4a16"]), {role: made[role] for role in ("model", "tokens")}
    quantize.run(tiny_model.stage_context(asked, made, tmp_path / "alone"))
    quantize.run(tiny_model.stage_context(asked, text, tmp_path / "propagated"))
    alone, propagated = (load_file(tmp_path / each / "model/model.safetensors") for each in ("alone", "propagated"))
    first, last = "model.layers.0.self_attn.q_proj.weight_packed", "model.layers.1.mlp.down_proj.weight_packed"
    assert torch.equal(alone[first], propagated[first])
    assert not torch.equal(alone[last], propagated[last])


def test_metrics_say_how_many_sequences_the_hessians_are_of(made, tmp_path):
    quantize.run(tiny_model.stage_context(section(SCHEMES["w4a16"]), made, tmp_path / "out"))
    metrics = artifacts.read_json(tmp_path / "out/metrics.json")
    assert metrics["calibration_sequences"] == SAMPLES
    assert (metrics["gptq_layers"], metrics["gptq_layers_rounded_to_nearest"]) == (14, 0)


def test_they_are_the_same_bytes_in_every_run(made, tmp_path):
    inputs = {role: made[role] for role in ("model", "tokens")}
    asked = HessiansSection(calibration_samples=SAMPLES, seed=1)
    hessians.run(tiny_model.stage_context(asked, inputs, tmp_path / "again"))
    assert artifacts.read_manifest(tmp_path / "again/hessians") == artifacts.read_manifest(made["hessians"])


def test_a_sparse_model_keeps_its_zeros(made, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(made["model"])
    for layer in linear_layers(model).values():
        layer.weight.data.masked_fill_(layer.weight.abs() < layer.weight.abs().median(), 0)
    sparse = tiny_model.write_model(model, made["model"], tmp_path / "sparse")
    cards.write(sparse, evolve(cards.read(sparse, ModelCard), sparse=True))
    artifacts.seal(sparse, "model")
    inputs = {"model": sparse, "tokens": made["tokens"]}
    asked = HessiansSection(calibration_samples=SAMPLES, seed=1)
    hessians.run(tiny_model.stage_context(asked, inputs, tmp_path / "gathered"))
    inputs["hessians"] = tmp_path / "gathered/hessians"
    quantize.run(tiny_model.stage_context(section(SCHEMES["w4a16"]), inputs, tmp_path / "out"))
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model")
    small(torch.zeros((1, 2), dtype=torch.int64))
    for name, layer in linear_layers(model).items():
        assert not small.get_submodule(name).weight[layer.weight == 0].any(), name


def test_hessians_of_another_model_are_refused(made, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(made["model"])
    model.model.layers[0].mlp.up_proj.weight.data *= 2
    other = tiny_model.write_model(model, made["model"], tmp_path / "other")
    with pytest.raises(StageError, match="gathered of another model"):
        quantize.run(tiny_model.stage_context(section(SCHEMES["w4a16"]), made | {"model": other}, tmp_path / "out"))


@pytest.mark.parametrize(("field", "value"), [("samples", 16), ("seed", 2)])
def test_hessians_of_other_sequences_are_refused(made, tmp_path, field, value):
    asked = section(SCHEMES["w4a16"], **{field: value})
    with pytest.raises(StageError, match=f"{value}, and .*hessians was gathered with"):
        quantize.run(tiny_model.stage_context(asked, made, tmp_path / "out"))


def test_what_needs_more_of_a_text_says_so(made, tmp_path):
    asked = section(W4A16(group_size=32, rounding=AWQ(grid_points=3)))
    with pytest.raises(StageError, match="AWQModifier needs more of a text"):
        quantize.run(tiny_model.stage_context(asked, made, tmp_path / "out"))
