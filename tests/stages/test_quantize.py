"""Quantized models are what their scheme says, close to the dense one, and the same in every run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import tiny_compression
import tiny_model
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from llmrecipe import artifacts, cards, wiring
from llmrecipe.cards import ModelCard, TokensCard
from llmrecipe.engines.compression import expanding, oneshot, quantization, reloading
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokens import writing
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.integers import WeightsOnly
from llmrecipe.recipe.measure import LayerErrors
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.mistral import Mistral
from llmrecipe.recipe.networks.modern_bert import ModernBert
from llmrecipe.recipe.networks.qwen2 import Qwen2
from llmrecipe.recipe.networks.qwen3 import Qwen3
from llmrecipe.recipe.objective import CausalLM, MaskedLM
from llmrecipe.recipe.schema import members
from llmrecipe.recipe.scheme import (
    AWQ,
    FP8,
    GPTQ,
    MXFP4,
    MXFP4A16,
    MXFP8,
    MXFP8A16,
    NVFP4,
    NVFP4A16,
    W4A16,
    W4AFP8,
    W8A8,
    W8A16,
    AutoRound,
    FP8Block,
    Override,
    RoundToNearest,
)
from llmrecipe.recipe.scheme_checks import scheme_findings
from llmrecipe.sections import MeasureSection, QuantizeSection
from llmrecipe.stages import measure, quantize
from llmrecipe.wiring import Wiring

pytestmark = pytest.mark.slow

LENGTH = tiny_model.SEQUENCE_LENGTH
NEAREST = RoundToNearest()
SCHEMES = {
    "w4a16": W4A16(group_size=32),
    "w4a16-nearest": W4A16(group_size=32, observer="minmax", rounding=NEAREST),
    "w4a16-asymmetric": W4A16(group_size=32, symmetric=False),
    "w4a16-importance": W4A16(group_size=32, rounding=NEAREST),
    "w4a16-awq": W4A16(group_size=32, rounding=AWQ(grid_points=5)),
    "w4a16-learned": W4A16(group_size=32, rounding=AutoRound(iterations=10)),
    "w8a16": W8A16(),
    "w4afp8": W4AFP8(group_size=32),
    "w8a8": W8A8(),
    "w8a8-nearest": W8A8(rounding=NEAREST),
    "w8a8-importance": W8A8(smoothing_strength=None, observer="imatrix_mse", rounding=NEAREST),
    "w8a8-awq": W8A8(smoothing_strength=None, rounding=AWQ(grid_points=5)),
    "fp8": FP8(),
    "fp8-gptq": FP8(observer="imatrix_mse", rounding=GPTQ()),
    "fp8-static": FP8(activations="static"),
    "fp8-block": FP8Block(block_size=32),
    "fp8-block-gptq": FP8Block(block_size=32, observer="mse", rounding=GPTQ()),
    "nvfp4": NVFP4(),
    "nvfp4a16": NVFP4A16(),
    "nvfp4a16-awq": NVFP4A16(rounding=AWQ(grid_points=5)),
    "mxfp4": MXFP4(),
    "mxfp4a16": MXFP4A16(),
    "mxfp8": MXFP8(),
    "mxfp8a16": MXFP8A16(),
}
LAYER = "model.layers.1.mlp.down_proj"

made, fresh_process, reloaded = tiny_compression.made, tiny_compression.fresh_process, tiny_compression.reloaded


def section(scheme, **changes) -> QuantizeSection:
    fields = {"calibration_samples": 32, "seed": 1}
    return QuantizeSection(scheme=scheme, **fields | changes)


def quantized(made, output: Path, scheme, **changes) -> Path:
    quantize.run(tiny_model.stage_context(section(scheme, **changes), made, output))
    return output


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def heldout_logits(directory: Path, tokens: Path) -> torch.Tensor:
    row = torch.from_numpy(np.fromfile(tokens / "heldout/00000.ds", "<u2")[: 16 * LENGTH].astype(np.int64))
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    with torch.no_grad():
        return model(row.view(16, LENGTH)).logits.float()


def error(directory: Path, made) -> float:
    """Mean squared error of the logits, as a share of their variance."""
    dense = heldout_logits(made["model"], made["tokens"])
    return ((heldout_logits(directory, made["tokens"]) - dense).square().mean() / dense.var()).item()


def is_bfloat16(name: str) -> bool:
    return name[:2] in ("nv", "mx")


ROWS, COUNT = 64 + 32 + 32 + 64 + 128 + 128 + 64, 2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64
"""Of the linear layers of a block: q, k, v, o, gate, up, down."""

A_ROW = 32 * ROWS / COUNT
"""Bits a weight of a scale in float32 for each row."""

BITS = {
    "w4a16": 4 + 16 / 32,
    "w4a16-asymmetric": 4 + 16 / 32 + 4 / 32,
    "w8a16": 8 + A_ROW,
    "w4afp8": 4 + 16 / 32,
    "w8a8": 8 + A_ROW,
    "fp8": 8 + A_ROW,
    "fp8-static": 8 + A_ROW,
    "fp8-block": 8 + 32 / 32**2,
    # With a factor in float32 for each of seven layers.
    "nvfp4": 4 + 8 / 16 + 7 * 32 / COUNT,
    "nvfp4a16": 4 + 8 / 16 + 7 * 32 / COUNT,
    "mxfp4": 4 + 8 / 32,
    "mxfp4a16": 4 + 8 / 32,
    "mxfp8": 8 + 8 / 32,
    "mxfp8a16": 8 + 8 / 32,
}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_saves_a_smaller_model_that_transformers_loads_with_nearly_the_same_logits(made, tmp_path, name):
    scheme, output = SCHEMES[name], quantized(made, tmp_path / "out", SCHEMES[name])
    model = output / "model"
    artifacts.open_artifact(model, "model")
    limits = {"w4": 3e-2, "w8": 2e-3, "fp8": 1e-2, "nvfp4": 0.1, "mxfp4": 0.1, "mxfp8": 1e-2}
    assert 0 < error(model, made) < next(limit for start, limit in limits.items() if name.startswith(start))
    metrics = json.loads((output / "metrics.json").read_text())
    dense, small = (directory / "model.safetensors" for directory in (made["model"], model))
    count = sum(tensor.numel() for tensor in weights(made["model"]).values())
    is_gptq = isinstance(scheme.rounding, GPTQ)
    looks_at_inputs = name in ("fp8-static", "nvfp4") or scheme.observer == "imatrix_mse"
    looks_at_inputs |= not isinstance(scheme.rounding, RoundToNearest) or name == "w8a8-nearest"
    assert metrics == {
        "bits_per_linear_weight": pytest.approx(BITS.get(name) or BITS[name.rpartition("-")[0]]),
        "calibration_sequences": 32 if looks_at_inputs else 0,
        "dense_bytes": dense.stat().st_size,
        "expanded_bytes": count * (2 if is_bfloat16(name) else 4),
        # Two blocks of seven.
        "gptq_layers": 14 if is_gptq else 0,
        "gptq_layers_rounded_to_nearest": 0,
        "quantized_bytes": small.stat().st_size,
        "ratio": dense.stat().st_size / small.stat().st_size,
    }
    assert metrics["ratio"] > 1.5
    text = "def wrap(self):"
    assert AutoTokenizer.from_pretrained(model)(text) == AutoTokenizer.from_pretrained(made["model"])(text)
    notes = cards.read(model, ModelCard).notes
    assert notes == (("all of it is bfloat16 in the place of float32",) if is_bfloat16(name) else ())


@pytest.mark.parametrize(
    ("scheme", "dtype", "bits", "scales"),
    [
        (W4A16(group_size=32), torch.int32, 4, (64, 4)),
        (W8A16(), torch.int32, 8, (64, 1)),
        # Not a byte a weight, as llmcompressor would store it.
        (W4AFP8(group_size=32), torch.int32, 4, (64, 4)),
        (W8A8(), torch.int8, 8, (64, 1)),
        (FP8(), torch.float8_e4m3fn, 8, (64, 1)),
        (FP8Block(block_size=64), torch.float8_e4m3fn, 8, (1, 2)),
        (NVFP4(), torch.uint8, 4, (64, 8)),
        (MXFP4(), torch.uint8, 4, (64, 4)),
        (MXFP8(), torch.float8_e4m3fn, 8, (64, 4)),
    ],
    ids=lambda value: getattr(value, "tag", ""),
)
def test_weights_are_stored_in_the_format_of_the_scheme_and_the_output_layer_as_it_was(
    made, tmp_path, scheme, dtype, bits, scales
):
    dense, small = weights(made["model"]), weights(quantized(made, tmp_path / "out", scheme) / "model")
    stored = small.get(f"{LAYER}.weight_packed", small.get(f"{LAYER}.weight"))
    assert stored.dtype == dtype
    assert stored.numel() * stored.element_size() * 8 == dense[f"{LAYER}.weight"].numel() * bits
    assert tuple(small[f"{LAYER}.weight_scale"].shape) == scales
    is_grouped = scheme.tag in ("w4a16", "w4afp8")
    assert small[f"{LAYER}.weight_scale"].dtype in (
        (torch.bfloat16,) if is_grouped else (torch.float32, torch.uint8, torch.float8_e4m3fn)
    )
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(small[name], dense[name].to(torch.bfloat16 if scheme.is_bfloat16 else torch.float32))


@pytest.mark.parametrize("name", ["w4a16", "fp8-block", "nvfp4", "mxfp8"])
def test_expanded_the_weights_take_what_transformers_holds(made, tmp_path, name):
    output = quantized(made, tmp_path / "out", SCHEMES[name])
    model = AutoModelForCausalLM.from_pretrained(output / "model", dtype="auto")
    model(torch.tensor([[1]]))  # Its weights are expanded when they are first needed.
    found = sum(tensor.nbytes for part, tensor in model.named_parameters() if part.endswith(".weight"))
    assert json.loads((output / "metrics.json").read_text())["expanded_bytes"] == found


@pytest.mark.parametrize("name", ["w4a16-asymmetric", "nvfp4"])
def test_weights_that_are_packed_a_few_rows_at_a_time_are_the_same(made, tmp_path, name, monkeypatch):
    expected = quantized(made, tmp_path / "at-once", SCHEMES[name]) / "model"
    monkeypatch.setattr(expanding, "_AT_ONCE", 1000)
    found = quantized(made, tmp_path / "in-parts", SCHEMES[name]) / "model"
    assert artifacts.open_artifact(found, "model") == artifacts.open_artifact(expected, "model")


def test_a_model_that_is_converted_to_bfloat16_is_what_comes_of_one_that_was_bfloat16_before(made, tmp_path):
    before = tiny_model.new_model()
    before.load_state_dict(weights(made["model"]))
    source = tiny_model.write_model(before.to(torch.bfloat16), made["model"], tmp_path / "bfloat16")
    override = Override(layers="down_proj", scheme=MXFP8())
    expected, found = (
        quantized(inputs, tmp_path / name, W8A16(), overrides=(override,)) / "model"
        for name, inputs in (("of-bfloat16", made | {"model": source}), ("of-float32", made))
    )
    assert weights(found).keys() == weights(expected).keys()
    assert all(torch.equal(tensor, weights(expected)[name]) for name, tensor in weights(found).items())
    assert json.loads((found / "config.json").read_text())["dtype"] == "bfloat16"
    assert cards.read(expected, ModelCard).notes == ()


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4a16", "mxfp4", "mxfp4a16", "mxfp8"])
def test_errors_of_layers_are_those_of_what_computes_in_bfloat16(made, tmp_path, name):
    model = quantized(made, tmp_path / "out", SCHEMES[name]) / "model"
    asked = LayerErrors(max_tokens=4 * LENGTH)
    inputs = {"model": model, "parent": made["model"], "tokens": made["tokens"]}
    measure.run(tiny_model.stage_context(MeasureSection(measure=asked), inputs, tmp_path / "layers"))
    rows = [json.loads(line) for line in (tmp_path / "layers/layers.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 7
    assert {row["bits"] for row in rows} == {8 if name == "mxfp8" else 4}

    # What a layer reads in the model that was quantized, through the layer itself as transformers loads it.
    dense, small = AutoModelForCausalLM.from_pretrained(made["model"]), AutoModelForCausalLM.from_pretrained(model)
    seen: list[torch.Tensor] = []
    dense.get_submodule(LAYER).register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    row = torch.from_numpy(np.fromfile(made["tokens"] / "heldout/00000.ds", "<u2")[: 4 * LENGTH].astype(np.int64))
    with torch.no_grad():
        # Expands the weights.
        small(row.view(4, LENGTH))
        dense(row.view(4, LENGTH))
        right, found = dense.get_submodule(LAYER)(seen[0]), small.get_submodule(LAYER)(seen[0].to(torch.bfloat16))
    error = (found.double() - right.double()).square().sum(-1) / right.double().square().sum(-1)
    (row_of_layer,) = (each for each in rows if each["layer"] == LAYER)
    assert found.dtype == torch.bfloat16
    assert row_of_layer["output_error"] == pytest.approx(error.mean().item(), rel=1e-3)
    assert 1e-5 < row_of_layer["output_error"] < 0.1


def test_static_activations_have_a_scale_from_the_calibration_text(made, tmp_path):
    small = weights(quantized(made, tmp_path / "out", FP8(activations="static")) / "model")
    name = "model.layers.0.self_attn.q_proj"
    model, inputs = AutoModelForCausalLM.from_pretrained(made["model"]), []
    model.get_submodule(name).register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    model(sequences(made))
    # The largest number of float8_e4m3fn is 448.
    torch.testing.assert_close(small[f"{name}.input_scale"], inputs[0].abs().amax()[None] / 448, rtol=1e-5, atol=0)


def sequences(made) -> torch.Tensor:
    """Those that calibrate in `section`."""
    tokens = TokenMixture.open([made["tokens"]], "train", (1.0,))
    return CalibrationText(tokens=tokens, sequence_length=LENGTH, samples=32, seed=1).sequences()


@pytest.mark.parametrize("scheme", [None, W4A16(group_size=32), NVFP4()], ids=["alone", "w4a16", "nvfp4"])
def test_keys_and_values_are_rounded_with_weights_and_without(made, tmp_path, scheme):
    output = quantized(made, tmp_path / "out", scheme, kv_cache="float8")
    model, without = output / "model", quantized(made, tmp_path / "without", scheme or W8A16()) / "model"
    assert 0 < error(model, made) < (0.1 if scheme else 1e-2)
    config = json.loads((model / "config.json").read_text())["quantization_config"]
    assert (config["kv_cache_scheme"]["num_bits"], config["kv_cache_scheme"]["type"]) == (8, "float")
    scales = {name for name in weights(model) if name.endswith(("k_scale", "v_scale"))}
    # Of layers 0 and 1, one for the keys and one for the values.
    assert scales == {f"model.layers.{layer}.self_attn.{part}_scale" for layer in (0, 1) for part in "kv"}
    if scheme:
        assert weights(model).keys() == weights(without).keys() | scales
    else:
        dense = weights(made["model"])
        assert weights(model).keys() == dense.keys() | scales
        assert all(torch.equal(weights(model)[name], tensor) for name, tensor in dense.items())
        values = []
        loaded = AutoModelForCausalLM.from_pretrained(made["model"])
        loaded.model.layers[0].self_attn.v_proj.register_forward_hook(lambda *given: values.append(given[2].detach()))
        loaded(sequences(made))
        found = weights(model)["model.layers.0.self_attn.v_scale"]
        torch.testing.assert_close(found, values[0].abs().amax()[None] / 448, rtol=1e-5, atol=0)


def test_a_model_with_rounded_keys_writes_with_its_cache_what_it_computes_without(made, tmp_path):
    output = quantized(made, tmp_path / "out", W8A16(), kv_cache="float8")
    model = folders.load_model(output / "model")
    row = torch.tensor([[1, 2, 3, 4]])
    written = model.generate(row, max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=0)
    while row.shape[1] < written.shape[1]:
        row = torch.cat([row, folders.logits(model, row)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(written, row)


def test_awq_moves_factors_from_columns_to_norms_and_changes_nothing_but_the_rounding(made, tmp_path):
    scheme = W4A16(group_size=32, observer="minmax", rounding=AWQ(grid_points=10))
    found = quantized(made, tmp_path / "out", scheme) / "model"
    norm, name = "model.layers.1.post_attention_layernorm.weight", "model.layers.1.mlp.gate_proj"
    before, after = weights(made["model"])[norm], weights(found)[norm]
    assert not torch.equal(before, after)
    dense = weights(made["model"])[f"{name}.weight"]
    enlarged = dense * before / after
    step = enlarged.view(len(dense), -1, 32).abs().amax(-1, keepdim=True) / 7.5
    # The positive end of a group is cut off at seven steps, and a step is rounded, by up to 2⁻⁸ of it.
    within = (expanded(found, name) - enlarged).view(len(dense), -1, 32).abs() <= 0.54 * step
    assert within.all()
    nearest = W4A16(group_size=32, observer="minmax", rounding=NEAREST)
    assert error(found, made) < error(quantized(made, tmp_path / "nearest", nearest) / "model", made)


def expanded(directory: Path, layer: str = LAYER) -> torch.Tensor:
    """A layer's weights as transformers expands them."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    model(torch.tensor([[1]]))  # When they are first needed.
    return model.get_submodule(layer).weight


@pytest.mark.parametrize("group", [32, None])
@pytest.mark.parametrize("bits", range(2, 9))
def test_round_to_nearest_is_what_it_says(made, tmp_path, bits, group):
    scheme = members(WeightsOnly)[f"w{bits}a16"](group_size=group, observer="minmax", rounding=NEAREST)
    output = quantized(made, tmp_path / "out", scheme)
    dense = weights(made["model"])[f"{LAYER}.weight"]
    groups = dense.view(len(dense), -1, group or dense.shape[1])
    scale = groups.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    if group is not None:
        scale = scale.bfloat16().float()
    integers = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    torch.testing.assert_close(expanded(output / "model"), (integers * scale).view_as(dense), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", range(2, 9))
def test_an_asymmetric_group_covers_its_least_weight_its_largest_and_zero(made, tmp_path, bits):
    scheme = members(WeightsOnly)[f"w{bits}a16"](group_size=32, symmetric=False, observer="minmax", rounding=NEAREST)
    output = quantized(made, tmp_path / "out", scheme)
    dense = weights(made["model"])[f"{LAYER}.weight"]
    groups = dense.view(len(dense), -1, 32)
    least, largest = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    exact = (largest - least) / (2**bits - 1)
    zero, scale = (-least / exact).round(), exact.bfloat16().float()
    integers = (groups / scale + zero).round().clamp(0, 2**bits - 1)
    torch.testing.assert_close(
        expanded(output / "model"), ((integers - zero) * scale).view_as(dense), rtol=1e-5, atol=1e-6
    )


def test_an_observer_lowers_the_error_that_it_looks_at(made, tmp_path):
    dense = weights(made["model"])[f"{LAYER}.weight"]
    model, inputs = AutoModelForCausalLM.from_pretrained(made["model"]), []
    model.get_submodule(LAYER).register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    model(sequences(made))
    importance = inputs[0].flatten(0, -2).square().mean(0)

    def errors(observer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each group of four bits, plain and weighed; the library's norms are 2.4 and 3."""
        scheme = W4A16(group_size=32, observer=observer, rounding=NEAREST)
        off = (expanded(quantized(made, tmp_path / observer, scheme) / "model") - dense).abs()
        return tuple(each.view(len(dense), -1, 32).sum(-1) for each in (off**2.4, off**3 * importance))

    of = {observer: errors(observer) for observer in ("minmax", "mse", "imatrix_mse")}
    for index, observer in enumerate(("mse", "imatrix_mse")):
        assert (of[observer][index] <= of["minmax"][index] * (1 + 1e-4)).all()
        assert of[observer][index].sum() < 0.9 * of["minmax"][index].sum()
        assert of[observer][index].sum() == min(each[index].sum() for each in of.values())


def test_gptq_rounds_columns_with_large_inputs_first_unless_it_is_told_not_to(made, tmp_path):
    ordered, unordered = (
        quantized(made, tmp_path / str(order), W4A16(group_size=32, rounding=GPTQ(activation_order=order))) / "model"
        for order in (True, False)
    )
    assert not torch.equal(expanded(ordered), expanded(unordered))
    # Either way no order is stored: groups are of neighbours.
    assert not any("g_idx" in name for name in weights(ordered))


def test_overridden_layers_have_their_own_formats_and_the_rest_what_it_would_have_had(made, tmp_path):
    base = W4A16(group_size=32, rounding=NEAREST)
    eight = W8A16(rounding=NEAREST)
    overrides = (
        Override(layers="layers.0.mlp.*", scheme=None),
        Override(layers="v_proj", scheme=eight),
        Override(layers="*.layers.0.*", scheme=W4A16(group_size=16, symmetric=False, rounding=NEAREST)),
    )
    mixed = quantized(made, tmp_path / "mixed", base, overrides=overrides) / "model"
    found, of_base, of_eight = (
        weights(directory)
        for directory in (
            mixed,
            quantized(made, tmp_path / "base", base) / "model",
            quantized(made, tmp_path / "eight", eight) / "model",
        )
    )

    def stored(tensors: dict[str, torch.Tensor], layer: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name.startswith(f"{layer}.weight")}

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    for layer in tiny_model.new_model().state_dict():
        name = layer.removesuffix(".weight")
        if ".layers.0.mlp." in layer:
            assert torch.equal(found[layer], weights(made["model"])[layer])
        elif "v_proj" in layer:
            assert same(stored(found, name), stored(of_eight, name))
        elif ".layers.0.self_attn." in layer:
            assert f"{name}.weight_zero_point" in found
            assert found[f"{name}.weight_scale"].shape[1] == 2 * of_base[f"{name}.weight_scale"].shape[1]
        elif "proj" in layer:
            assert same(stored(found, name), stored(of_base, name))
    # What a plain transformers finds is what was compared in memory, to the bit, or the stage would have failed.
    assert error(mixed, made) < error(tmp_path / "base" / "model", made)


WHOLE = {
    "integers": W4A16(group_size=32, rounding=NEAREST),
    "floats": FP8(activations="static"),
    "packed integers with float activations": W4AFP8(group_size=32, rounding=NEAREST),
    "nvfp4": NVFP4(rounding=NEAREST),
}


@pytest.mark.parametrize("rounding", [NEAREST, GPTQ()], ids=["nearest", "gptq"])
@pytest.mark.parametrize("rest", WHOLE)
def test_any_formats_can_be_mixed_and_are_loaded_to_the_same_bits(made, tmp_path, rest, rounding):
    def scheme(made_as):
        return attrs.evolve(made_as, rounding=rounding)

    overrides = (
        Override(layers="layers.0.self_attn.o_proj", scheme=scheme(FP8Block(block_size=32))),
        Override(layers="o_proj", scheme=scheme(MXFP8())),
        Override(layers="layers.0.self_attn.*", scheme=scheme(W8A8(smoothing_strength=None))),
        Override(layers="layers.0.mlp.down_proj", scheme=None),
        Override(layers="down_proj", scheme=scheme(MXFP4())),
        Override(layers="layers.0.mlp.*", scheme=scheme(W4AFP8(group_size=16))),
    )
    output = quantized(made, tmp_path / "out", scheme(WHOLE[rest]), overrides=overrides, kv_cache="float8")
    # What a plain transformers finds is what was compared in memory, to the bit, or the stage would have failed.
    found = {
        name.removesuffix("_packed").removesuffix(".weight").removeprefix("model.layers."): str(tensor.dtype)
        for name, tensor in weights(output / "model").items()
        if name.endswith(("proj.weight", "proj.weight_packed"))
    }
    own = {"integers": "int32", "floats": "float8_e4m3fn", "nvfp4": "uint8"}.get(rest, "int32")
    attention, mlp = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
    assert found == {
        **{f"0.self_attn.{name}": "torch.int8" for name in attention},
        "0.self_attn.o_proj": "torch.float8_e4m3fn",
        **{f"0.mlp.{name}": "torch.int32" for name in mlp},
        "0.mlp.down_proj": "torch.bfloat16",
        **{f"1.self_attn.{name}": f"torch.{own}" for name in attention},
        "1.self_attn.o_proj": "torch.float8_e4m3fn",
        **{f"1.mlp.{name}": f"torch.{own}" for name in mlp},
        "1.mlp.down_proj": "torch.uint8",
    }


def test_awq_goes_with_overrides_that_leave_some_layers(made, tmp_path):
    scheme = W4A16(group_size=32, rounding=AWQ(grid_points=3))
    overrides = (
        Override(layers="layers.0.*", scheme=None),
        Override(layers="v_proj", scheme=FP8(rounding=scheme.rounding)),
    )
    model = quantized(made, tmp_path / "out", scheme, overrides=overrides) / "model"
    assert cards.read(model, ModelCard).notes == ()
    norm = "layers.0.post_attention_layernorm.weight"
    assert torch.equal(weights(model)[f"model.{norm}"], weights(made["model"])[f"model.{norm}"])


WIDTHS = {
    # No powers of two, and norms and biases that a rotation has to take along.
    "hidden_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "initializer_range": 0.2,
}


@pytest.mark.parametrize(
    "network",
    [
        Llama(**WIDTHS),
        Llama(tie_word_embeddings=True, **WIDTHS),
        Mistral(head_dim=16, **WIDTHS),
        Qwen2(**WIDTHS),
        Qwen3(head_dim=24, **WIDTHS),
    ],
    ids=["llama", "tied", "mistral", "qwen2", "qwen3"],
)
def test_a_rotated_model_computes_what_it_did_but_for_the_rounding(made, tmp_path, network):
    model = architecture_of(network).transformers_network(
        architecture_of(network).first_weights(network, 320, 0, seed=0), network, 320, 0
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.model.embed_tokens.weight[:, 5] *= 30
    source = tiny_model.write_model(model, made["model"], tmp_path / "dense", network=network)
    scheme = W8A16(observer="minmax", rounding=NEAREST)
    output = quantized(made | {"model": source}, tmp_path / "out", scheme, rotate=True) / "model"
    dense = heldout_logits(source, made["tokens"])
    # Without its mends, by which llmcompressor takes the embedding's means away, a quarter of the variance.
    assert (heldout_logits(output, made["tokens"]) - dense).square().mean() < 1e-2 * dense.var()
    before, after = (weights(folder)["model.embed_tokens.weight"].square().mean(0) for folder in (source, output))
    assert before.max() > 500 * before.median()
    assert after.max() < 50 * after.median()
    assert not torch.equal(weights(output)["lm_head.weight"], weights(output)["model.embed_tokens.weight"])
    # What it is taken for has as many weights as there are.
    card, its_own = cards.read(output, ModelCard), 320 * 96 * network.tie_word_embeddings
    assert card.network == evolve(network, tie_word_embeddings=False)
    count = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(source).parameters())
    assert card.network.num_parameters(card.rows) == count + its_own


def test_an_output_layer_that_a_rotation_leaves_equal_to_the_embedding_stays_one_with_it(made, tmp_path):
    # No factors of the last norm, as in a model that was never trained, for the output layer to take up.
    network = evolve(tiny_model.NETWORK, tie_word_embeddings=True)
    tied = tiny_model.new_model(tie_word_embeddings=True)
    source = tiny_model.write_model(tied, made["model"], tmp_path / "dense", network=network)
    scheme = W8A16(observer="minmax", rounding=NEAREST)
    output = quantized(made | {"model": source}, tmp_path / "out", scheme, rotate=True) / "model"
    assert "lm_head.weight" not in weights(output)
    assert cards.read(output, ModelCard).network == network


def test_an_override_that_matches_no_layer_of_the_model_itself_is_refused(made, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "scheme_findings", lambda *_: ())
    override = Override(layers="blocks.*", scheme=None)
    with pytest.raises(StageError, match=r"overrides\[0\]\.layers: 'blocks\.\*' matches no linear layer of this model"):
        quantized(made, tmp_path / "out", FP8(), overrides=(override,))


def test_an_encoder_is_quantized_but_for_its_output_layer(made, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    dense = BertForMaskedLM(BertConfig(vocab_size=320, initializer_range=0.2, **sizes))
    dense.save_pretrained(tmp_path / "dense")
    token_ids = torch.randint(0, 320, (8, LENGTH))
    expected = dense.eval()(token_ids).logits
    errors = {}
    for rounding in (GPTQ(), NEAREST):
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / "dense")
        tokenizer, scheme = AutoTokenizer.from_pretrained(made["model"]), W4A16(group_size=32, rounding=rounding)

        quantization.quantize(model, tokenizer, section(scheme), token_ids, torch.device("cpu"))
        rounded = model(token_ids).logits
        quantization.save_compressed(model, tmp_path / rounding.tag)

        found = AutoModelForMaskedLM.from_pretrained(tmp_path / rounding.tag)(token_ids).logits
        torch.testing.assert_close(found, rounded, rtol=0, atol=1e-5)
        errors[rounding.tag] = ((found - expected).square().mean() / expected.var()).item()
        packed = {name for name in weights(tmp_path / rounding.tag) if name.endswith("weight_packed")}
        # Of each layer query, key, value, the attention's output and both of the feed-forward layer; of the head one.
        assert len(packed) == 2 * 6 + 1
        assert not any("decoder" in name or "embeddings" in name for name in packed)
    assert errors["gptq"] < errors["round_to_nearest"] < 0.2


ENCODERS = {
    "bert": (Bert(hidden_size=64, num_layers=2, num_attention_heads=4, intermediate_size=128), tuple(SCHEMES)),
    "modern_bert": (
        ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4, intermediate_size=96),
        ("w8a8-importance", "fp8", "fp8-gptq", "fp8-static", "fp8-block", "mxfp8", "mxfp8a16"),
    ),
}


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family, (network, names) in ENCODERS.items()
        for name in names
        if not list(scheme_findings(section(SCHEMES[name]), network))
    ],
)
def test_an_encoder_is_loaded_to_the_same_bits_in_every_scheme_that_it_can_have(made, tmp_path, family, name):
    network, _ = ENCODERS[family]
    weights_of = architecture_of(network).first_weights(network, 320, 0, seed=0)
    model = architecture_of(network).transformers_network(weights_of, network, 320, 0)
    objective = MaskedLM(sequence_length=LENGTH)
    source = tiny_model.write_model(model, made["model"], tmp_path / "dense", network=network, objective=objective)
    output = quantized(made | {"model": source}, tmp_path / "out", SCHEMES[name])
    assert json.loads((output / "metrics.json").read_text())["ratio"] > 1.2


def test_a_modern_encoder_is_quantized_but_for_its_output_layer(made, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = ModernBertConfig(vocab_size=320, initializer_range=0.2, pad_token_id=0, **sizes)
    ModernBertForMaskedLM(config).save_pretrained(tmp_path / "dense")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "dense")
    token_ids = torch.randint(0, 320, (8, LENGTH))
    expected = model(token_ids).logits

    tokenizer, none = AutoTokenizer.from_pretrained(made["model"]), torch.empty(0, LENGTH, dtype=torch.int64)
    quantization.quantize(model, tokenizer, section(FP8()), none, torch.device("cpu"))
    quantization.save_compressed(model, tmp_path / "small")

    found = AutoModelForMaskedLM.from_pretrained(tmp_path / "small")(token_ids).logits
    torch.testing.assert_close(found, model(token_ids).logits, rtol=0, atol=1e-5)
    assert 0 < (found - expected).square().mean() / expected.var() < 5e-2
    # Of each layer Wqkv and Wo of the attention, Wi and Wo of the feed-forward layer; of the head one.
    small = {name for name, tensor in weights(tmp_path / "small").items() if tensor.dtype == torch.float8_e4m3fn}
    assert len(small) == 2 * 4 + 1
    assert not any("decoder" in name or "embeddings" in name for name in small)


def repetitive(made, directory: Path) -> dict[str, Path]:
    """The inputs, with one sequence over and over as the text."""
    card = cards.read(made["tokens"], TokensCard)
    row = np.fromfile(made["tokens"] / card.splits["train"].files[0], "<u2")[: LENGTH // 4]
    writing.write_tokens(
        directory,
        {split: [np.tile(row, 400)] for split in ("train", "heldout")},
        vocab_size=card.vocab_size,
        end_of_text_id=card.end_of_text_id,
        tokenizer=card.tokenizer,
    )
    return made | {"tokens": directory}


def test_gptq_that_fails_for_every_layer_is_an_error_in_the_words_of_the_recipe(made, tmp_path):
    scheme = W4A16(group_size=32, rounding=GPTQ(dampening_frac=1e-12))
    expected = r"GPTQ failed for 14 of 14 layers.*dampening_frac=1e-12.*raise scheme.rounding.dampening_frac"
    with pytest.raises(StageError, match=expected):
        quantized(repetitive(made, tmp_path / "tokens"), tmp_path / "out", scheme)


def test_layers_for_which_gptq_failed_are_counted_and_said_by_the_log_metrics_and_card(
    made, tmp_path, monkeypatch, caplog, capfd
):
    from llmcompressor.modifiers.gptq import gptq_quantize

    factorize, calls = gptq_quantize.factorize_hessian, []

    def failing_at_first(weights, hessians, percdamp, fell_back):
        calls.append(len(fell_back))
        if len(calls) == 1:
            # What no dampening makes positive definite.
            hessians[0] = -torch.eye(len(hessians[0]))
        return factorize(weights, hessians, percdamp, fell_back)

    monkeypatch.setattr(gptq_quantize, "factorize_hessian", failing_at_first)
    output = quantized(made, tmp_path / "out", W4A16(group_size=32))
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["gptq_layers"], metrics["gptq_layers_rounded_to_nearest"]) == (sum(calls), 1) == (14, 1)
    said = "GPTQ failed for 1 of 14 layers, which are rounded to nearest instead"
    assert said in caplog.text
    (note,) = cards.read(output / "model", ModelCard).notes
    assert note.startswith(said)
    assert "Hessian inversion" not in capfd.readouterr().err


def test_gptq_rounds_columns_that_calibration_never_reaches_to_nearest_and_counts_whole_layers(made, tmp_path):
    model = tiny_model.new_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[7] = 0
        model.model.layers[1].post_attention_layernorm.weight.zero_()
    directory = tiny_model.write_model(model, made["model"], tmp_path / "dead")
    output = quantized(made | {"model": directory}, tmp_path / "out", W4A16(group_size=32))
    loaded = AutoModelForCausalLM.from_pretrained(output / "model", dtype="auto")
    loaded(torch.tensor([[1]]))  # Its weights are expanded when they are first needed.
    dense = model.model.layers[0].mlp.down_proj.weight
    found = loaded.model.layers[0].mlp.down_proj.weight
    step = dense.view(len(dense), -1, 32).abs().amax(-1)[:, 0] / 7.5
    assert ((found[:, 7] - dense[:, 7]).abs() <= 0.51 * step + 1e-7).all()
    # Of the second layer gate_proj, up_proj and, after zeros, down_proj.
    assert json.loads((output / "metrics.json").read_text())["gptq_layers_rounded_to_nearest"] == 3


def test_whatever_else_llmcompressor_warns_of_is_counted_on_the_card(made, tmp_path, monkeypatch):
    from llmcompressor.modifiers.gptq import base
    from loguru import logger

    observe = base.observe

    def warning(*args, **options):
        logger.warning("Attempted to calibrate a module\nwithout statistics")
        observe(*args, **options)

    monkeypatch.setattr(base, "observe", warning)
    output = quantized(made, tmp_path / "out", W8A16())
    (note,) = cards.read(output / "model", ModelCard).notes
    assert re.fullmatch(r"llmcompressor warned \d times: Attempted to calibrate a module without statistics", note)


def test_what_llmcompressor_logs_moves_no_cursor(capsys):
    from loguru import logger

    oneshot.show_log("info")
    logger.warning("a layer named \x1b[2J")
    logger.remove()
    assert capsys.readouterr().err == "a layer named \ufffd[2J\n"


@pytest.mark.parametrize(
    ("scheme", "rotate"),
    [(W8A8(), False), (W8A16(rounding=AWQ()), False), (FP8(), True)],
    ids=["smoothquant", "awq", "rotate"],
)
def test_activations_of_a_class_that_llmcompressor_does_not_know_are_not_evened_out_by_guessing(made, scheme, rotate):
    class Unknown(LlamaForCausalLM):
        """A class without a list of its norms."""

    model = Unknown(tiny_model.new_model().config)
    with pytest.raises(StageError, match=r"Unknown: llmcompressor doesn't know which norms.*use .* W8A16 or FP8"):
        quantization.quantize(
            model,
            AutoTokenizer.from_pretrained(made["model"]),
            section(scheme, rotate=rotate),
            torch.ones(2, 8).long(),
            torch.device("cpu"),
        )


def test_gptq_loses_less_than_rounding_to_nearest(made, tmp_path):
    gptq = quantized(made, tmp_path / "gptq", W4A16(group_size=32)) / "model"
    nearest = quantized(made, tmp_path / "nearest", W4A16(group_size=32, rounding=NEAREST)) / "model"
    assert error(gptq, made) < 0.8 * error(nearest, made)


def test_smoothing_moves_scale_from_activations_to_weights(made, tmp_path):
    name = "model.layers.0.input_layernorm.weight"
    dense = weights(made["model"])[name]
    strong, weak = (
        weights(quantized(made, tmp_path / str(strength), W8A8(smoothing_strength=strength)) / "model")[name]
        for strength in (0.8, 0.2)
    )
    assert not torch.equal(strong, dense)
    # At full strength every channel's activation has the same range.
    assert not torch.equal(strong, weak)
    model = quantized(made, tmp_path / "w8a8", W8A8()) / "model"
    activations = json.loads((model / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    assert activations["input_activations"]["num_bits"] == 8
    assert activations["input_activations"]["dynamic"] is True


@pytest.mark.parametrize("scheme", [W4A16(group_size=32), FP8()], ids=["w4a16", "fp8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tied_embeddings_stay_tied_in_either_number_format(made, tmp_path, scheme, dtype):
    model = tiny_model.new_model(tie_word_embeddings=True).to(getattr(torch, dtype))
    tied = made | {"model": tiny_model.write_model(model, made["model"], tmp_path / "tied")}
    output = quantized(tied, tmp_path / "out", scheme) / "model"
    small = weights(output)
    assert "lm_head.weight" not in small
    assert small["model.embed_tokens.weight"].dtype == getattr(torch, dtype)
    loaded = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert error(output, tied) < 5e-2


def test_calibration_reads_different_sequences_of_the_training_split_as_the_seed_decides(made, tmp_path, monkeypatch):
    seen = []
    real = quantization.quantize

    def spy(model, tokenizer, what, calibration, *others):
        seen.append(calibration)
        return real(model, tokenizer, what, calibration, *others)

    monkeypatch.setattr(quantization, "quantize", spy)
    for index, seed in enumerate((1, 1, 2)):
        quantized(made, tmp_path / str(index), W4A16(group_size=32), calibration_samples=4, seed=seed)
    row = np.concatenate([np.fromfile(path, "<u2") for path in sorted((made["tokens"] / "train").glob("*.ds"))])
    places = [tuple(row[start : start + LENGTH].tolist()) for start in range(0, len(row) - LENGTH, LENGTH)]
    for drawn in seen:
        assert drawn.shape == (4, LENGTH)
        assert len(set(map(tuple, drawn.tolist())) & set(places)) == 4
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def reading(length: int, made, directory: Path) -> dict[str, Path]:
    """Inputs whose model read sequences of this length in training."""
    objective = CausalLM(sequence_length=length)
    return made | {
        "model": tiny_model.write_model(tiny_model.new_model(), made["model"], directory, objective=objective)
    }


def test_a_split_with_fewer_sequences_than_asked_for_is_refused_with_how_many_there_are(made, tmp_path):
    inputs = reading(200, made, tmp_path / "model")
    count = TokenFiles.open(made["tokens"], "train").num_tokens
    available = (count - 1) // 200
    message = (
        rf"calibration_samples: {available + 1} were .* {count} tokens, which make {available} sequences of 200; ask"
    )
    with pytest.raises(StageError, match=message):
        quantized(inputs, tmp_path / "out", W8A16(), calibration_samples=available + 1)
    # One that needs none compares what one sequence gives.
    quantized(inputs, tmp_path / "uncalibrated", FP8(), calibration_samples=available + 1)
    output = quantized(inputs, tmp_path / "enough", W8A16(), calibration_samples=available)
    assert json.loads((output / "metrics.json").read_text())["calibration_sequences"] == available


def test_a_split_shorter_than_one_sequence_is_refused(made, tmp_path):
    with pytest.raises(StageError, match=r"tokens, too few for one sequence of 1000000.*sequence_length"):
        quantized(reading(1_000_000, made, tmp_path / "model"), tmp_path / "out", FP8())


def test_a_group_that_does_not_divide_a_layer_is_refused_by_name(made, tmp_path):
    with pytest.raises(RecipeError, match=r"scheme\.group_size: W4A16's group of 48 .* \(down_proj\); use 32"):
        quantized(made, tmp_path / "out", W4A16(group_size=48))


def test_a_scheme_that_does_not_suit_the_network_is_refused(made, tmp_path):
    network = Bert(hidden_size=64, num_layers=2, num_attention_heads=4)
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "bert", network=network)
    with pytest.raises(RecipeError, match=r"tiny-stage\.scheme\.smoothing_strength: W8A8 evens out .*; use None"):
        quantized(made | {"model": model}, tmp_path / "out", W8A8())


def test_a_model_that_is_smaller_than_its_vocabulary_is_refused(made, tmp_path):
    model = tiny_model.write_model(tiny_model.new_model(vocab_size=64), made["model"], tmp_path / "small")
    with pytest.raises(StageError, match=r"knows 64 tokens.*vocabulary of 320"):
        quantized(made | {"model": model}, tmp_path / "out", FP8())


def test_a_model_for_another_tokenizer_is_refused(made, tmp_path):
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "other", tokenizer_digest="a" * 64)
    with pytest.raises(StageError, match=r"tokens: made with another tokenizer .* than that of .*other"):
        quantized(made | {"model": model}, tmp_path / "out", FP8())


def test_a_quantized_model_is_wholly_where_it_is_moved_to(made, tmp_path):
    model = folders.load_model(quantized(made, tmp_path / "out", W8A16(rounding=NEAREST)) / "model").to("meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    # Computed where it is: a layer that sends what it is given elsewhere would give that.
    layer = model.model.layers[0].self_attn.q_proj
    assert layer(torch.zeros(1, 1, layer.in_features, device="meta")).device.type == "meta"


def test_a_model_that_is_quantized_already_is_refused(made, tmp_path):
    model = quantized(made, tmp_path / "once", W8A16(rounding=NEAREST)) / "model"
    with pytest.raises(StageError, match="once/model: this model is quantized already; quantize the one"):
        quantized(made | {"model": model}, tmp_path / "twice", FP8())


def test_the_card_tells_what_the_model_was_made_from(made, tmp_path):
    card = cards.read(quantized(made, tmp_path / "out", FP8()) / "model", ModelCard)
    before = cards.read(made["model"], ModelCard)
    digests = {role: artifacts.file_digest(path / artifacts.MANIFEST) for role, path in made.items()}
    assert (card.made_by, card.parents) == ("quantize", digests)
    facts = ("network", "objective", "vocab_size", "end_of_text_id", "tokenizer")
    assert [getattr(card, fact) for fact in facts] == [getattr(before, fact) for fact in facts]


def test_importing_the_stage_leaves_the_process_as_it_was():
    program = (
        "import os, sys; before = dict(os.environ); from llmrecipe.stages import quantize; "
        "sys.exit(str((dict(os.environ) == before, 'llmcompressor' in sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "(True, False)\n"


def damage_absence(model: Path) -> None:
    (model / "model.safetensors").unlink()


def damage_weights(model: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    (model / "model.safetensors").write_bytes(b"\xff" * size)


def damage_names(model: Path) -> None:
    tensors = weights(model)
    del tensors[f"{LAYER}.weight"]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


def damage_config(model: Path) -> None:
    (model / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "sealed", "message"),
    [
        (damage_absence, False, "model.safetensors: is missing"),
        (damage_weights, False, "can't load this model"),
        (damage_names, True, f"missing .*{LAYER}"),
        (damage_config, True, "can't load this model: .*config"),
    ],
)
def test_a_damaged_model_is_refused(made, tmp_path, damage, sealed, message):
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "model")
    damage(model)
    if sealed:
        (model / artifacts.MANIFEST).unlink()
        artifacts.seal(model, "model")
    with pytest.raises(StageError, match=message):
        quantized(made | {"model": model}, tmp_path / "out", FP8())


@pytest.mark.parametrize("name", ["w4a16", "w8a8", "fp8"])
def test_a_deep_model_with_large_weights_is_saved_to_the_last_bit_of_its_logits(made, tmp_path, name):
    model = tiny_model.new_model(num_hidden_layers=8, initializer_range=1.0)
    tiny_model.write_tokenizer(tmp_path / "tokenizer")
    source = tiny_model.write_model(model, tmp_path / "tokenizer", tmp_path / "model")
    quantized({**made, "model": source}, tmp_path / "out", SCHEMES[name])


def test_a_saved_model_that_computes_something_else_is_refused(made, tmp_path, monkeypatch):
    real = quantization.save_compressed

    def save_wrongly(model, directory):
        real(model, directory)
        tensors = weights(directory)
        tensors[f"{LAYER}.weight_scale"] *= 1.5
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(quantization, "save_compressed", save_wrongly)
    with pytest.raises(
        StageError,
        match="the saved model is not the one in memory: transformers computes logits that differ by",
    ):
        quantized(made, tmp_path / "out", W4A16(group_size=32))


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("name", ["w4a16-asymmetric", "w4afp8", "w8a8", "fp8", "nvfp4"])
def test_another_process_computes_the_same_bits_with_what_was_saved(made, tmp_path, name):
    context = tiny_model.stage_context(section(SCHEMES[name]), made, tmp_path / "out")
    quantize.run(context)
    assert list(context.scratch.iterdir()) == []
    row = torch.arange(LENGTH)[None]
    found = reloading.logits_in_a_fresh_process(tmp_path / "out" / "model", row, tmp_path)
    assert torch.equal(found, reloading.plain_logits(tmp_path / "out" / "model", row))


@pytest.mark.usefixtures("fresh_process")
def test_a_process_that_is_killed_while_it_loads_a_saved_model_is_told_from_one_that_cannot(tmp_path, monkeypatch):
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run([sys.executable, "-c", killed], **options))
    with pytest.raises(
        StageError, match="loads the saved model again was killed by SIGKILL, most often for want of mem"
    ):
        reloading.logits_in_a_fresh_process(tmp_path, torch.tensor([[1]]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_whose_publisher_names_a_class_without_output_head_is_saved_as_what_it_is(made, tmp_path):
    source = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "model")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaModel"]}))
    (source / artifacts.MANIFEST).unlink()
    artifacts.seal(source, "model")
    output = quantized(made | {"model": source}, tmp_path / "out", FP8())
    saved = json.loads((output / "model" / "config.json").read_text())
    assert saved["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.usefixtures("fresh_process")
def test_a_saved_model_that_a_plain_transformers_cannot_load_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(
        StageError, match=r"model: transformers can't load the saved model, or .*: OSError: .*no file named"
    ):
        reloading.logits_in_a_fresh_process(tmp_path / "model", torch.tensor([[1]]), tmp_path)


def test_two_projects_get_the_same_bytes_in_any_order_and_nothing_beside_them(made, tmp_path):
    names = ["w4a16", "w8a8", "fp8"]
    run = (
        "import sys; from llmrecipe.cli.main import main; sys.exit(any(main(line.split(';')) for line in sys.argv[1:]))"
    )
    manifests = []
    for place, order in (("here", names), ("some/where/else", names[::-1])):
        project, home = tmp_path / place, tmp_path / place / "home"
        home.mkdir(parents=True)
        tied = Wiring(inputs={role: str(path) for role, path in made.items()})
        sections = {f"{name}-quantize": wiring.written(section(SCHEMES[name]), tied) for name in names}
        (project / "params.yaml").write_text(yaml.safe_dump(sections))
        stages = [f"stage;quantize;--name;{name}-quantize;--output;out/{name}/quantize" for name in order]
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONHASHSEED": str(len(place))}
        subprocess.run([sys.executable, "-c", run, *stages], cwd=project, env=environment, check=True)
        files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
        outside = {file for file in files if "/model/" not in file and "/times/" not in file}
        assert outside == {"params.yaml", ".llmrecipe/.gitignore"} | {
            file.format(name)
            for name in names
            for file in (
                ".llmrecipe/{}-quantize.lock",
                "out/{}/quantize/metrics.json",
            )
        }
        models = [project / "out" / name / "quantize/model" for name in names]
        assert all(str(project) not in (model / "config.json").read_text() for model in models)
        manifests.append([artifacts.open_artifact(model, "model") for model in models])
    assert manifests[0] == manifests[1]
    for manifest in manifests[0]:
        assert set(manifest["files"]) == {
            "card.json",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
