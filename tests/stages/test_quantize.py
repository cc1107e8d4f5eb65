"""Quantized models are what their scheme says, close to the dense one, and the same in every run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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
from llmrecipe.engines.compression import oneshot, quantization, reloading
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.tokens import writing
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.recipe.schema import members
from llmrecipe.recipe.scheme import FP8, GPTQ, W4A16, W8A8, W8A16, Override, RoundToNearest, WeightsOnly
from llmrecipe.sections import QuantizeSection
from llmrecipe.stages import quantize
from llmrecipe.wiring import Wiring

LENGTH = tiny_model.SEQUENCE_LENGTH
NEAREST = RoundToNearest()
SCHEMES = {
    "w4a16": W4A16(group_size=32),
    "w4a16-nearest": W4A16(group_size=32, observer="minmax", rounding=NEAREST),
    "w4a16-asymmetric": W4A16(group_size=32, symmetric=False),
    "w4a16-importance": W4A16(group_size=32, rounding=NEAREST),
    "w8a16": W8A16(),
    "w8a8": W8A8(),
    "w8a8-nearest": W8A8(rounding=NEAREST),
    "fp8": FP8(),
}
LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_model.make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def fresh_process():
    """The process that loads a saved model again."""


@pytest.fixture(autouse=True)
def reloaded(request, monkeypatch):
    """Spare tests that don't ask for it that process, which takes seconds to start."""
    if "fresh_process" not in request.fixturenames:
        monkeypatch.setattr(
            reloading,
            "logits_in_a_fresh_process",
            lambda directory, token_ids, scratch: reloading.plain_logits(directory, token_ids),
        )


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


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_saves_a_smaller_model_that_transformers_loads_with_nearly_the_same_logits(made, tmp_path, name):
    output = quantized(made, tmp_path / "out", SCHEMES[name])
    model = output / "model"
    artifacts.open_artifact(model, "model")
    assert 0 < error(model, made) < {"w4": 3e-2, "w8": 2e-3, "fp": 1e-2}[name[:2]]
    metrics = json.loads((output / "metrics.json").read_text())
    dense, small = (directory / "model.safetensors" for directory in (made["model"], model))
    count = sum(tensor.numel() for tensor in weights(made["model"]).values())
    assert metrics == {
        "bits_per_weight": 8 * small.stat().st_size / count,
        "calibration_sequences": 0 if name in ("w4a16-nearest", "fp8") else 32,
        "dense_bytes": dense.stat().st_size,
        # Two blocks of seven.
        "gptq_layers": 0 if "nearest" in name or name in ("w4a16-importance", "fp8") else 14,
        "gptq_layers_rounded_to_nearest": 0,
        "quantized_bytes": small.stat().st_size,
        "ratio": dense.stat().st_size / small.stat().st_size,
    }
    assert metrics["ratio"] > 1.5
    text = "def wrap(self):"
    assert AutoTokenizer.from_pretrained(model)(text) == AutoTokenizer.from_pretrained(made["model"])(text)


@pytest.mark.parametrize(
    ("scheme", "dtype", "scales"),
    [
        (W4A16(group_size=32), torch.int32, (64, 4)),
        (W8A16(), torch.int32, (64, 1)),
        (W8A8(), torch.int8, (64, 1)),
        (FP8(), torch.float8_e4m3fn, (64, 1)),
    ],
    ids=["w4a16", "w8a16", "w8a8", "fp8"],
)
def test_weights_are_stored_in_the_format_of_the_scheme_and_the_output_layer_as_it_was(
    made, tmp_path, scheme, dtype, scales
):
    dense, small = weights(made["model"]), weights(quantized(made, tmp_path / "out", scheme) / "model")
    stored = small.get(f"{LAYER}.weight_packed", small.get(f"{LAYER}.weight"))
    assert stored.dtype == dtype
    bits = 4 if isinstance(scheme, W4A16) else 8
    assert stored.numel() * stored.element_size() * 8 == dense[f"{LAYER}.weight"].numel() * bits
    assert tuple(small[f"{LAYER}.weight_scale"].shape) == scales
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(small[name], dense[name])


def expanded(directory: Path) -> torch.Tensor:
    """The layer's weights as transformers expands them."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    model(torch.tensor([[1]]))  # When they are first needed.
    return model.get_submodule(LAYER).weight


@pytest.mark.parametrize("group", [32, None])
@pytest.mark.parametrize("bits", range(2, 9))
def test_round_to_nearest_is_what_it_says(made, tmp_path, bits, group):
    scheme = members(WeightsOnly)[f"w{bits}a16"](group_size=group, observer="minmax", rounding=NEAREST)
    output = quantized(made, tmp_path / "out", scheme)
    dense = weights(made["model"])[f"{LAYER}.weight"]
    groups = dense.view(len(dense), -1, group or dense.shape[1])
    scale = groups.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
    integers = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    torch.testing.assert_close(expanded(output / "model"), (integers * scale).view_as(dense), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bits", range(2, 9))
def test_an_asymmetric_group_covers_its_least_weight_its_largest_and_zero(made, tmp_path, bits):
    scheme = members(WeightsOnly)[f"w{bits}a16"](group_size=32, symmetric=False, observer="minmax", rounding=NEAREST)
    output = quantized(made, tmp_path / "out", scheme)
    dense = weights(made["model"])[f"{LAYER}.weight"]
    groups = dense.view(len(dense), -1, 32)
    least, largest = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = (largest - least) / (2**bits - 1)
    zero = (-least / scale).round()
    integers = (groups / scale + zero).round().clamp(0, 2**bits - 1)
    torch.testing.assert_close(
        expanded(output / "model"), ((integers - zero) * scale).view_as(dense), rtol=1e-5, atol=1e-6
    )


def test_an_observer_lowers_the_error_that_it_looks_at(made, tmp_path):
    dense = weights(made["model"])[f"{LAYER}.weight"]
    model, inputs = AutoModelForCausalLM.from_pretrained(made["model"]), []
    model.get_submodule(LAYER).register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    tokens = TokenMixture.open([made["tokens"]], "train", (1.0,))
    model(CalibrationText(tokens=tokens, sequence_length=LENGTH, samples=32, seed=1).sequences())
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
        quantization.save_compressed(model, tmp_path / rounding.tag)

        found = AutoModelForMaskedLM.from_pretrained(tmp_path / rounding.tag)(token_ids).logits
        torch.testing.assert_close(found, model(token_ids).logits, rtol=0, atol=1e-5)
        errors[rounding.tag] = ((found - expected).square().mean() / expected.var()).item()
        packed = {name for name in weights(tmp_path / rounding.tag) if name.endswith("weight_packed")}
        # Of each layer query, key, value, the attention's output and both of the feed-forward layer; of the head one.
        assert len(packed) == 2 * 6 + 1
        assert not any("decoder" in name or "embeddings" in name for name in packed)
    assert errors["gptq"] < errors["round_to_nearest"] < 0.2


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


def test_activations_of_a_class_that_llmcompressor_does_not_know_are_not_evened_out_by_guessing(made, tmp_path):
    class Unknown(LlamaForCausalLM):
        """A class without a list of its norms."""

    model = Unknown(tiny_model.new_model().config)
    with pytest.raises(StageError, match=r"Unknown: llmcompressor doesn't know which norms.*use .* W8A16 or FP8"):
        quantization.quantize(
            model,
            AutoTokenizer.from_pretrained(made["model"]),
            section(W8A8()),
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

    def spy(model, tokenizer, what, calibration, device):
        seen.append(calibration)
        return real(model, tokenizer, what, calibration, device)

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
    with pytest.raises(RecipeError, match=r"tiny-stage\.scheme: W8A8 evens out .*; use W8A16 or FP8"):
        quantized(made | {"model": model}, tmp_path / "out", W8A8())


def test_a_model_that_is_smaller_than_its_vocabulary_is_refused(made, tmp_path):
    model = tiny_model.write_model(tiny_model.new_model(vocab_size=64), made["model"], tmp_path / "small")
    with pytest.raises(StageError, match=r"knows 64 tokens.*vocabulary of 320"):
        quantized(made | {"model": model}, tmp_path / "out", FP8())


def test_a_model_for_another_tokenizer_is_refused(made, tmp_path):
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "other", tokenizer_digest="a" * 64)
    with pytest.raises(StageError, match=r"tokens: made with another tokenizer .* than that of .*other"):
        quantized(made | {"model": model}, tmp_path / "out", FP8())


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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("name", ["w4a16-asymmetric", "w8a8", "fp8"])
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


@pytest.mark.slow
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
