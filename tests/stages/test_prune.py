"""Pruned models have the zeros that were asked for, in the right places, and keep them when they are quantized."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny_compression
import tiny_model
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard, TokensCard
from llmrecipe.engines.compression import quantization, sparsity
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.tokens import writing
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.prune import Magnitude, Measured, Pattern, PerLayer, SparseGPT, Wanda
from llmrecipe.recipe.scheme import FP8, W4A16, W8A8, W8A16, RoundToNearest
from llmrecipe.sections import PruneSection, QuantizeSection
from llmrecipe.stages import prune, quantize

LENGTH = tiny_model.SEQUENCE_LENGTH
WAYS = (Magnitude, Wanda, SparseGPT)
AMOUNTS = {"half": 0.5, "third": 0.3, "2of4": Pattern(keep=2, of=4), "1of4": Pattern(keep=1, of=4)}
FIRST = "model.layers.0.self_attn.q_proj.weight"

made, fresh_process, reloaded = tiny_compression.made, tiny_compression.fresh_process, tiny_compression.reloaded


def pruned(made, output: Path, method, samples=32) -> Path:
    section = PruneSection(method=method, calibration_samples=samples, seed=1)
    prune.run(tiny_model.stage_context(section, made, output))
    return output / "model"


def quantized(made, output: Path, scheme) -> Path:
    section = QuantizeSection(scheme=scheme, calibration_samples=32, seed=1)
    quantize.run(tiny_model.stage_context(section, made, output))
    return output / "model"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def linears(directory: Path) -> dict[str, torch.Tensor]:
    """The matrices that may be pruned, as they are stored."""
    return {name: tensor for name, tensor in weights(directory).items() if "proj" in name}


def heldout_error(directory: Path, made) -> float:
    """Mean squared error of the logits on held-out text, as a share of their variance."""
    row = torch.from_numpy(np.fromfile(made["tokens"] / "heldout/00000.ds", "<u2")[: 16 * LENGTH].astype(np.int64))
    dense, found = (
        AutoModelForCausalLM.from_pretrained(each)(row.view(16, LENGTH)).logits.detach()
        for each in (made["model"], directory)
    )
    return ((found - dense).square().mean() / dense.var()).item()


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("way", WAYS)
def test_every_layer_but_the_output_layer_has_the_zeros_that_were_asked_for(made, tmp_path, way, amount):
    asked = AMOUNTS[amount]
    model = pruned(made, tmp_path / "out", way(sparsity=asked))
    artifacts.open_artifact(model, "model")
    dense, found = weights(made["model"]), weights(model)
    assert dense.keys() == found.keys()
    zeros = 0
    for name, tensor in found.items():
        if "proj" not in name:
            assert torch.equal(tensor, dense[name])
            continue
        is_zero = (tensor == 0).numpy()
        zeros += is_zero.sum()
        assert not torch.signbit(tensor[tensor == 0]).any()
        if isinstance(asked, Pattern):
            assert (is_zero.reshape(len(is_zero), -1, asked.of).sum(-1) == asked.of - asked.keep).all()
        else:
            assert abs(is_zero.mean() - asked) < 1.01 / tensor.shape[1]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    count = sum(tensor.numel() for tensor in found.values())
    size = (model / "model.safetensors").stat().st_size
    assert metrics == {
        "calibration_sequences": 0 if way is Magnitude else 32,
        "dense_bytes": (made["model"] / "model.safetensors").stat().st_size,
        "dense_weights": count,
        "pruned_bytes": size,
        "pruned_weights": count,
        "sparsity": zeros / sum(tensor.numel() for tensor in linears(model).values()),
        "sparsity_per_layer": [sparsity_of(model, f".layers.{layer}.") for layer in range(2)],
    }


def sparsity_of(directory: Path, part: str) -> float:
    """Share of zeros among the weights whose names have this part, as they are stored."""
    zeros = [(tensor == 0).flatten() for name, tensor in linears(directory).items() if part in name]
    return int(torch.cat(zeros).sum()) / torch.cat(zeros).numel()


@pytest.mark.parametrize("way", WAYS)
def test_each_layer_has_the_share_of_zeros_that_is_asked_for_it(made, tmp_path, way):
    model = pruned(made, tmp_path / "out", way(sparsity=PerLayer(shares=(0.7, 0.3))))
    for name, tensor in linears(model).items():
        asked = 0.7 if ".layers.0." in name else 0.3
        assert abs((tensor == 0).float().mean() - asked) < 1.01 / tensor.shape[1]
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["sparsity_per_layer"] == pytest.approx([0.7, 0.3], abs=0.02)
    assert metrics["sparsity"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("way", [Wanda, SparseGPT])
def test_one_share_for_each_layer_is_the_same_as_one_for_all(made, tmp_path, way):
    each = pruned(made, tmp_path / "each", way(sparsity=PerLayer(shares=(0.5, 0.5))))
    model = pruned(made, tmp_path / "all", way(sparsity=0.5))
    assert (each / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("way", [Magnitude, SparseGPT])
def test_a_layer_with_a_share_of_none_stays_as_it_is_zeros_and_all(made, tmp_path, way):
    once = sparse(made, tmp_path / "once", way(sparsity=PerLayer(shares=(0.5, 0.0))))
    both = pruned(once, tmp_path / "both", way(sparsity=PerLayer(shares=(0.0, 0.4))))
    dense, first, second = linears(made["model"]), linears(once["model"]), linears(both)
    for name in dense:
        untouched = (dense, first) if ".layers.1." in name else (first, second)
        assert torch.equal(*(each[name] for each in untouched))
    assert sparsity_of(both, ".layers.0.") == pytest.approx(0.5, abs=0.02)
    assert sparsity_of(both, ".layers.1.") == pytest.approx(0.4, abs=0.02)


def with_sensitive_layer(made, directory: Path) -> dict[str, Path]:
    """A model whose first layer adds little to the residual stream, so the second one's errors are the largest."""
    model = AutoModelForCausalLM.from_pretrained(made["model"])
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.model.layers[0].get_submodule(name).weight *= 0.1
    return made | {"model": tiny_model.write_model(model, made["model"], directory)}


@pytest.mark.parametrize("way", [Magnitude, SparseGPT])
def test_measured_shares_spare_the_layer_that_loses_most_and_leave_as_many_weights_in_all(made, tmp_path, way):
    inputs = with_sensitive_layer(made, tmp_path / "sensitive")
    model = pruned(inputs, tmp_path / "out", way(sparsity=Measured(share=0.5)))
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    found = [sparsity_of(model, f".layers.{layer}.") for layer in range(2)]
    assert metrics["sparsity_per_layer"] == found
    assert found[1] < 0.45 < 0.55 < found[0]
    # To a weight of each row, and none has fewer columns.
    assert metrics["sparsity"] == pytest.approx(0.5, abs=1.01 / tiny_model.NETWORK.hidden_size)
    assert metrics["calibration_sequences"] == 32

    said = "sparsity of each layer, by the error of its output: "
    (note,) = cards.read(model, ModelCard).notes
    shares = tuple(float(share) for share in note.removeprefix(said).split(", "))
    assert note.startswith(said)
    again = pruned(inputs, tmp_path / "again", way(sparsity=PerLayer(shares=shares)))
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_measured_shares_of_a_sparse_model_add_to_its_zeros(made, tmp_path):
    once = sparse(made, tmp_path / "once", SparseGPT(sparsity=Measured(share=0.3)))
    twice = pruned(once, tmp_path / "twice", SparseGPT(sparsity=Measured(share=0.6)))
    for name, tensor in linears(once["model"]).items():
        assert (linears(twice)[name][tensor == 0] == 0).all()
    assert sparsity_of(twice, "proj") == pytest.approx(0.6, abs=0.02)


def test_a_model_that_has_the_zeros_already_is_refused(made, tmp_path):
    once = sparse(made, tmp_path / "once", Magnitude(sparsity=0.5))
    for way in WAYS:
        with pytest.raises(StageError, match="every layer has as many zeros as are asked for already; ask for more"):
            pruned(once, tmp_path / way.tag, way(sparsity=0.4))


def is_sorted_out(measure: np.ndarray, is_zero: np.ndarray, slack: float) -> bool:
    """Whether in no row what is zero measured more than what was kept."""
    largest = np.where(is_zero, measure, -np.inf).max(-1)
    return bool((largest <= np.where(is_zero, np.inf, measure).min(-1) * (1 + slack)).all())


@pytest.mark.parametrize("amount", ["third", "1of4"])
def test_magnitude_leaves_the_largest_of_each_row_or_group_as_they_were(made, tmp_path, amount):
    asked = AMOUNTS[amount]
    dense, found = linears(made["model"]), linears(pruned(made, tmp_path / "out", Magnitude(sparsity=asked)))
    for name, tensor in found.items():
        before, after = dense[name].numpy(), tensor.numpy()
        size = asked.of if isinstance(asked, Pattern) else before.shape[1]
        groups = before.reshape(-1, size)
        keep = asked.keep if isinstance(asked, Pattern) else size - int(size * asked)
        least = np.sort(np.abs(groups), axis=1)[:, -keep]
        expected = np.where(np.abs(groups) >= least[:, None], groups, 0).reshape(before.shape)
        np.testing.assert_array_equal(after, expected)


def first_inputs(made) -> np.ndarray:
    """What the first layer reads of the calibration text: `[tokens, columns]`."""
    model, inputs = AutoModelForCausalLM.from_pretrained(made["model"]), []
    model.get_submodule(FIRST.removesuffix(".weight")).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    tokens = TokenMixture.open([made["tokens"]], "train", (1.0,))
    model(CalibrationText(tokens=tokens, sequence_length=LENGTH, samples=32, seed=1).sequences())
    return inputs[0].detach().flatten(0, -2).numpy()


def test_wanda_leaves_those_that_are_largest_times_the_norm_of_their_input(made, tmp_path):
    dense = weights(made["model"])[FIRST].numpy()
    found = weights(pruned(made, tmp_path / "out", Wanda(sparsity=0.5)))[FIRST].numpy()
    measure = np.abs(dense) * np.linalg.norm(first_inputs(made), axis=0)
    assert is_sorted_out(measure, found == 0, 1e-4)
    assert not is_sorted_out(np.abs(dense), found == 0, 1e-4)
    np.testing.assert_array_equal(found[found != 0], dense[found != 0])


def test_sparse_gpt_corrects_what_is_left_by_what_the_layer_reads(made, tmp_path):
    inputs, dense = first_inputs(made), weights(made["model"])[FIRST].numpy()
    found = weights(pruned(made, tmp_path / "out", SparseGPT(sparsity=0.5)))[FIRST].numpy()

    def error(matrix: np.ndarray) -> float:
        return float(np.square(inputs @ (matrix - dense).T).sum())

    assert (found[found != 0] != dense[found != 0]).mean() > 0.9
    # Than the same zeros without the correction, and than the best of those that don't correct.
    assert error(found) < 0.7 * error(np.where(found == 0, 0, dense))
    wanda = weights(pruned(made, tmp_path / "wanda", Wanda(sparsity=0.5)))[FIRST].numpy()
    assert error(found) < 0.7 * error(wanda)


def test_a_model_loses_less_the_more_is_known_of_its_inputs(made, tmp_path):
    errors = [heldout_error(pruned(made, tmp_path / way.tag, way(sparsity=0.5)), made) for way in WAYS]
    assert errors[2] < 0.9 * errors[1] < errors[0]


def sparse(made, directory: Path, method) -> dict[str, Path]:
    return made | {"model": pruned(made, directory, method)}


@pytest.mark.parametrize("way", WAYS)
def test_a_sparse_model_that_is_pruned_further_keeps_its_zeros(made, tmp_path, way):
    once = sparse(made, tmp_path / "once", SparseGPT(sparsity=0.3))
    twice = linears(pruned(once, tmp_path / "twice", way(sparsity=0.6)))
    for name, tensor in linears(once["model"]).items():
        assert (twice[name][tensor == 0] == 0).all()
        assert abs((twice[name] == 0).float().mean() - 0.6) < 0.03


def test_sparse_gpt_leaves_weights_whose_input_calibration_never_reaches(made, tmp_path):
    model = tiny_model.new_model()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[32:] = 0
    inputs = made | {"model": tiny_model.write_model(model, made["model"], tmp_path / "dead")}
    name = "model.layers.0.mlp.down_proj.weight"
    found = weights(pruned(inputs, tmp_path / "out", SparseGPT(sparsity=0.3)))[name]
    # Three of four columns are never reached; of those, most of the weights that were to become zero.
    assert abs((found == 0).float().mean() - 0.3) < 0.01
    assert (found[:, :32] == 0).float().mean() < 0.1


def test_a_layer_with_another_number_of_zeros_than_was_asked_for_fails_the_stage(made, tmp_path, monkeypatch):
    smallest = sparsity.smallest
    monkeypatch.setattr(sparsity, "smallest", lambda matrix, share: smallest(matrix, 0.9 * share))
    with pytest.raises(StageError, match=r"q_proj: \d+ of its 4096 weights are zero, .* 0\.5 asks for \(2048\)"):
        pruned(made, tmp_path / "out", Magnitude(sparsity=0.5))
    shifted = torch.arange(8) % 4 < 2
    monkeypatch.setattr(
        sparsity, "smallest", lambda matrix, _: shifted.roll(1).repeat(len(matrix), matrix.shape[1] // 8)
    )
    pruned(made, tmp_path / "right", Magnitude(sparsity=Pattern(keep=2, of=4)))
    uneven = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    monkeypatch.setattr(sparsity, "smallest", lambda matrix, _: uneven.repeat(len(matrix), matrix.shape[1] // 8))
    with pytest.raises(StageError, match=r"Pattern\(keep=2, of=4\) asks for"):
        pruned(made, tmp_path / "uneven", Magnitude(sparsity=Pattern(keep=2, of=4)))


def test_sparse_gpt_that_fails_for_every_layer_is_an_error(made, tmp_path):
    card = cards.read(made["tokens"], TokensCard)
    row = np.fromfile(made["tokens"] / card.splits["train"].files[0], "<u2")[: LENGTH // 4]
    writing.write_tokens(
        tmp_path / "tokens",
        {split: [np.tile(row, 400)] for split in ("train", "heldout")},
        vocab_size=card.vocab_size,
        end_of_text_id=card.end_of_text_id,
        tokenizer=card.tokenizer,
    )
    inputs = made | {"tokens": tmp_path / "tokens"}
    with pytest.raises(StageError, match=r"dampening_frac=1e-12\) failed for every layer.*raise it.*prune\.Wanda"):
        pruned(inputs, tmp_path / "out", SparseGPT(sparsity=0.5, dampening_frac=1e-12))


def test_the_card_says_that_the_model_is_sparse_and_what_it_was_made_from(made, tmp_path):
    inputs = sparse(made, tmp_path / "sparse", Wanda(sparsity=0.5))
    before, card = cards.read(made["model"], ModelCard), cards.read(inputs["model"], ModelCard)
    digests = {role: artifacts.file_digest(path / artifacts.MANIFEST) for role, path in made.items()}
    assert (card.made_by, card.parents, card.sparse, before.sparse) == ("prune", digests, True, False)
    facts = ("network", "objective", "vocab_size", "end_of_text_id", "tokenizer")
    assert [getattr(card, fact) for fact in facts] == [getattr(before, fact) for fact in facts]
    assert cards.read(quantized(inputs, tmp_path / "small", FP8()), ModelCard).sparse


NEAREST = RoundToNearest()
ROUNDED = {
    "gptq": W4A16(group_size=32),
    "gptq-asymmetric": W4A16(group_size=32, symmetric=False),
    "gptq-minmax": W4A16(group_size=32, observer="minmax"),
    "nearest": W4A16(group_size=32, rounding=NEAREST),
    "nearest-asymmetric": W4A16(group_size=32, symmetric=False, rounding=NEAREST),
    "w8a16": W8A16(),
    "w8a8": W8A8(),
    "fp8": FP8(),
}


def kept(dense: Path, small: Path) -> float:
    """Of the weights that are zero in the one, the share that a plain transformers finds to be zero in the other."""
    model = AutoModelForCausalLM.from_pretrained(small)
    model(torch.tensor([[1]]))  # Its weights are expanded when they are first needed.
    found = model.state_dict()
    zeros = [(found[name][tensor == 0]) for name, tensor in linears(dense).items()]
    joined = torch.cat(zeros)
    return ((joined == 0) & ~torch.signbit(joined)).float().mean().item()


@pytest.mark.parametrize("name", ROUNDED)
def test_every_scheme_keeps_the_zeros_of_a_sparse_model_bit_for_bit(made, tmp_path, name):
    inputs = sparse(made, tmp_path / "sparse", SparseGPT(sparsity=0.5))
    assert kept(inputs["model"], quantized(inputs, tmp_path / "small", ROUNDED[name])) == 1


def test_zeros_that_quantizing_would_lose_fail_the_stage(made, tmp_path, monkeypatch):
    inputs = sparse(made, tmp_path / "sparse", SparseGPT(sparsity=0.5))
    monkeypatch.setattr(quantization, "kept_by_gptq", nullcontext)
    with pytest.raises(
        StageError, match=r"\d+ weights that are zero in .*sparse/model aren't any more, \d+ of them in"
    ):
        quantized(inputs, tmp_path / "small", W4A16(group_size=32))
    assert kept(inputs["model"], tmp_path / "small/model") < 1


def test_layers_are_still_counted_where_gptq_keeps_zeros(made, tmp_path):
    inputs = sparse(made, tmp_path / "sparse", Magnitude(sparsity=0.5))
    quantized(inputs, tmp_path / "small", W4A16(group_size=32))
    assert json.loads((tmp_path / "small/metrics.json").read_text())["gptq_layers"] == 14


@pytest.mark.parametrize("way", WAYS)
def test_a_model_in_bfloat16_stays_in_it(made, tmp_path, way):
    model = tiny_model.new_model(tie_word_embeddings=True).to(torch.bfloat16)
    inputs = made | {"model": tiny_model.write_model(model, made["model"], tmp_path / "tied")}
    found = weights(pruned(inputs, tmp_path / "out", way(sparsity=0.5)))
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in found


def test_an_encoder_is_pruned_but_for_its_output_layer(made, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    BertForMaskedLM(BertConfig(vocab_size=320, **sizes)).save_pretrained(tmp_path / "dense")
    tokenizer, token_ids = AutoTokenizer.from_pretrained(made["model"]), torch.randint(0, 320, (8, LENGTH))
    for way in WAYS:
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / "dense")
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        device = torch.device("cpu")
        sparsity.make_sparse(way(sparsity=0.5), model, tokenizer, token_ids, device, keeps_zeros=False)
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        # Of each layer query, key, value, the attention's output and both of the feed-forward layer; of the head one.
        assert len(changed) == 2 * 6 + 1
        assert not any("decoder" in name or "embeddings" in name for name in changed)


def test_the_head_of_an_encoder_gets_the_mean_of_its_layers(made, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    BertForMaskedLM(BertConfig(vocab_size=320, **sizes)).save_pretrained(tmp_path / "dense")
    tokenizer, token_ids = AutoTokenizer.from_pretrained(made["model"]), torch.randint(0, 320, (8, LENGTH))
    for way in WAYS:
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / "dense")
        method = way(sparsity=PerLayer(shares=(0.25, 0.75)))
        sparsity.make_sparse(method, model, tokenizer, token_ids, torch.device("cpu"), keeps_zeros=False)
        for name, tensor in model.state_dict().items():
            asked = {"layer.0": 0.25, "layer.1": 0.75, "transform.dense": 0.5}
            share = next((share for part, share in asked.items() if part in name and tensor.dim() == 2), 0)
            assert abs((tensor == 0).float().mean() - share) < 0.02 or "bias" in name or "Norm" in name


def test_a_plan_that_does_not_fit_the_model_is_refused(made, tmp_path):
    with pytest.raises(RecipeError, match=r"tiny-stage\.method\.sparsity\.of: 3 does not divide hidden_size = 64"):
        pruned(made, tmp_path / "out", Wanda(sparsity=Pattern(keep=1, of=3)))
    with pytest.raises(RecipeError, match=r"tiny-stage\.method\.sparsity\.shares: has 3, and the model has 2 layers"):
        pruned(made, tmp_path / "three", Wanda(sparsity=PerLayer(shares=(0.5, 0.5, 0.5))))


def test_a_quantized_model_is_refused(made, tmp_path):
    inputs = made | {"model": quantized(made, tmp_path / "small", FP8())}
    with pytest.raises(StageError, match="small/model: this model is quantized; prune the one that it was made from"):
        pruned(inputs, tmp_path / "out", Magnitude(sparsity=0.5))


def test_text_of_another_tokenizer_or_too_little_of_it_is_refused(made, tmp_path):
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "other", tokenizer_digest="a" * 64)
    with pytest.raises(StageError, match=r"tokens: made with another tokenizer .* than that of .*other"):
        pruned(made | {"model": model}, tmp_path / "out", Wanda(sparsity=0.5))
    with pytest.raises(StageError, match="calibration_samples: 1000000 were asked for"):
        pruned(made, tmp_path / "much", Wanda(sparsity=0.5), samples=1_000_000)
    # What reads none needs none.
    pruned({"model": model}, tmp_path / "without", Magnitude(sparsity=0.5), samples=1_000_000)


@pytest.mark.parametrize("method", [Magnitude(sparsity=0.5), SparseGPT(sparsity=Measured(share=0.5))])
def test_the_same_section_gives_the_same_bytes(made, tmp_path, method):
    first, second = (pruned(made, tmp_path / each, method) for each in ("a", "b/c"))
    assert artifacts.open_artifact(first, "model") == artifacts.open_artifact(second, "model")
    assert str(tmp_path) not in (first / "config.json").read_text()
    assert {path.name for path in first.iterdir()} == {
        "card.json",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_process")
def test_another_process_computes_the_same_bits_with_what_was_saved(made, tmp_path):
    section = PruneSection(method=SparseGPT(sparsity=0.5), calibration_samples=32, seed=1)
    context = tiny_model.stage_context(section, made, tmp_path / "out")
    prune.run(context)
    assert list(context.scratch.iterdir()) == []
