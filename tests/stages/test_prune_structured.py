"""Models with fewer layers, channels, neurons or heads are what is left of the whole, and that is what matters."""

import json
from pathlib import Path

import attrs
import pytest
import tiny_distillation
import tiny_model
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from strategies import narrowings, networks
from tiny_distillation import column, distilled, kl, plain_losses
from torch.nn.functional import silu
from transformers import AutoModelForCausalLM

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import reloading, shrinking
from llmrecipe.engines.compression.oneshot import linear_layers
from llmrecipe.engines.finetuning.distillation.launcher import student_of
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.errors import RecipeError
from llmrecipe.pretrained.network import network_of
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.mistral import Mistral
from llmrecipe.recipe.networks.qwen2 import Qwen2
from llmrecipe.recipe.networks.qwen3 import Qwen3
from llmrecipe.recipe.prune import Layers, Magnitude, Width
from llmrecipe.recipe.scheme import W4A16
from llmrecipe.sections import PruneSection, QuantizeSection
from llmrecipe.stages import prune, quantize

SHAPE = {
    "hidden_size": 64,
    "num_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
NETWORKS = {
    "llama": Llama(**SHAPE),
    "tied": Llama(**SHAPE, tie_word_embeddings=True, rope_theta=5e4),
    "mistral": Mistral(**SHAPE, head_dim=24),
    "qwen2": Qwen2(**SHAPE),
    "qwen3": Qwen3(**SHAPE, head_dim=16),
}
WIDTH = Width(hidden_size=48, intermediate_size=32, num_key_value_heads=2)
ROWS = 384
CPU = torch.device("cpu")
TOKENS = torch.arange(3, 43)[None]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tiny_model.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def reloaded(monkeypatch):
    """Spare tests the process that loads a saved model again, which takes seconds to start."""
    monkeypatch.setattr(
        reloading,
        "logits_in_a_fresh_process",
        lambda directory, token_ids, scratch: reloading.plain_logits(directory, token_ids),
    )


def network_model(network):
    """A model of first weights, none of which is what transformers begins with."""
    architecture = architecture_of(network)
    weights = architecture.first_weights(network, ROWS, 0, seed=0)
    generator = torch.Generator().manual_seed(1)
    moved = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
    return architecture.transformers_network(moved, network, ROWS, 0).eval()


def written(model, network, made, directory: Path) -> dict[str, Path]:
    return made | {"model": tiny_model.write_model(model, made["model"], directory, network=network)}


def pruned(inputs, output: Path, method) -> Path:
    section = PruneSection(method=method, calibration_samples=8, seed=1)
    prune.run(tiny_model.stage_context(section, inputs, output))
    return output / "model"


@torch.no_grad()
def logits(model) -> torch.Tensor:
    model = model if isinstance(model, torch.nn.Module) else AutoModelForCausalLM.from_pretrained(model)
    return model(TOKENS).logits


def idle(model, network, *, channels=(), neurons=(), heads=(), layers=()) -> None:
    """Make these do nothing, wherever they are: channels by what writes them, all else by what reads it."""
    queries = network.num_attention_heads // network.num_key_value_heads * network.head_size
    with torch.no_grad():
        model.model.embed_tokens.weight[:, list(channels)] = 0
        for index, layer in enumerate(model.model.layers):
            layer.mlp.down_proj.weight[:, list(neurons)] = 0
            for head in heads:
                layer.self_attn.o_proj.weight[:, head * queries : (head + 1) * queries] = 0
            for writes in (layer.mlp.down_proj, layer.self_attn.o_proj):
                for weight in writes.parameters():
                    weight[list(channels)] = 0
                    if index in layers:
                        weight.zero_()


def only(network, *, channels=range(64), neurons=range(96), heads=range(4)) -> shrinking.Importance:
    """That these matter, and all else is at rest."""

    def ones(size: int, places) -> torch.Tensor:
        return torch.zeros(size).index_fill(0, torch.tensor(list(places)), 1.0)

    norms = [f"layers.{layer}.{name}_layernorm" for layer in range(3) for name in ("input", "post_attention")]
    return shrinking.Importance(
        layers=torch.ones(3),
        neurons=ones(96, neurons).expand(3, 96),
        heads=ones(4, heads).expand(3, 4),
        channels=ones(64, channels),
        squares={f"model.{norm}.weight": ones(64, channels) for norm in [*norms, "norm"]},
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_all_that_there_is_computes_the_same_bits(tmp_path, name):
    network = NETWORKS[name]
    model = network_model(network)
    everything = shrinking.with_width(model, network, network, only(network), tmp_path)
    assert torch.equal(logits(everything), logits(model))
    assert torch.equal(logits(shrinking.with_layers(model, network, range(3), tmp_path)), logits(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_does_nothing_can_go_and_the_logits_stay(tmp_path, name):
    network = NETWORKS[name]
    model = network_model(network)
    idle(model, network, neurons=range(1, 96, 3), heads=(0, 2), layers=(1,))
    neurons = [each for each in range(96) if each % 3 != 1]
    narrow = Width(intermediate_size=64, num_key_value_heads=2).pruned(network)
    left = only(network, neurons=neurons, heads=(1, 3))
    small = shrinking.with_width(model, network, narrow, left, tmp_path)
    torch.testing.assert_close(logits(small), logits(model), rtol=0, atol=1e-4)
    short = Layers(num_layers=2).pruned(narrow)
    shorter = shrinking.with_layers(small, short, [0, 2], tmp_path)
    torch.testing.assert_close(logits(shorter), logits(model), rtol=0, atol=1e-4)
    # It isn't so that anything may go.
    left = only(network, neurons=neurons, heads=(0, 3))
    other = shrinking.with_width(model, network, narrow, left, tmp_path)
    assert (logits(other) - logits(model)).abs().max() > 1e-2


def with_biases():
    """A Llama with all the biases that it can have, none of them zero."""
    model = tiny_model.new_model(
        num_hidden_layers=3,
        intermediate_size=96,
        num_attention_heads=8,
        num_key_value_heads=4,
        attention_bias=True,
        mlp_bias=True,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.mark.parametrize("name", [*NETWORKS, "biases"])
def test_channels_that_are_zero_can_go_and_the_norms_make_up_for_them(tmp_path, name):
    network = NETWORKS.get(name, NETWORKS["llama"])
    model = network_model(network) if name in NETWORKS else with_biases()
    channels = [each for each in range(64) if each % 4]
    idle(model, network, channels=range(0, 64, 4))
    narrow = Width(hidden_size=48).pruned(network)
    small = shrinking.with_width(model, network, narrow, only(network, channels=channels), tmp_path)
    for norm in (small.model.norm, *(norm for layer in small.model.layers for norm in norms_of(layer))):
        # It is added to a mean that is larger by as much.
        norm.variance_epsilon *= 64 / 48
    torch.testing.assert_close(logits(small), logits(model), rtol=0, atol=1e-4)
    for changed in ([0, *channels[1:]], range(48)):
        other = shrinking.with_width(model, network, narrow, only(network, channels=changed), tmp_path)
        assert (logits(other) - logits(model)).abs().max() > 1e-2


def norms_of(layer):
    return layer.input_layernorm, layer.post_attention_layernorm


@pytest.mark.parametrize("name", NETWORKS)
def test_the_card_and_the_configuration_say_what_is_left(made, tmp_path, name):
    network = NETWORKS[name]
    inputs = written(network_model(network), network, made, tmp_path / "dense")
    narrow = pruned(inputs, tmp_path / "narrow", WIDTH)
    short = pruned(inputs | {"model": narrow}, tmp_path / "short", Layers(num_layers=2))
    for directory, expected in (
        (narrow, WIDTH.pruned(network)),
        (short, Layers(num_layers=2).pruned(WIDTH.pruned(network))),
    ):
        card = cards.read(directory, ModelCard)
        assert card.network == expected
        assert (card.made_by, card.sparse) == ("prune", False)
        read, faults = network_of(Config(json.loads((directory / "config.json").read_text())))
        assert faults == []
        sizes = [*SHAPE, "head_size", "tie_word_embeddings", "rope_theta", "window"]
        assert [getattr(read, size) for size in sizes] == [getattr(expected, size) for size in sizes]
        assert json.loads((directory / "config.json").read_text())["head_dim"] == network.head_size
        stored = load_file(directory / "model.safetensors")
        assert sum(tensor.numel() for tensor in stored.values()) == expected.num_parameters(ROWS)
        metrics = json.loads((directory.parent / "metrics.json").read_text())
        assert metrics["pruned_weights"] == expected.num_parameters(ROWS) < metrics["dense_weights"]
        assert metrics["pruned_bytes"] == (directory / "model.safetensors").stat().st_size
        assert metrics["sparsity"] == 0


@settings(max_examples=20)
@given(st.data())
def test_a_smaller_network_is_one_that_transformers_has_with_so_many_weights(data):
    kinds = st.sampled_from([Llama, Mistral, Qwen2, Qwen3])
    network = data.draw(kinds.flatmap(networks).filter(lambda drawn: drawn.feed_forward_size > 1))
    small = data.draw(narrowings(network)).pruned(network)
    architecture = architecture_of(small)
    with torch.device("meta"):
        model = architecture.transformers_class(architecture.transformers_config(small, ROWS, 0))
    assert model.num_parameters() == small.num_parameters(ROWS)
    columns = {name: module.in_features for name, module in linear_layers(model).items()}
    assert columns == small.quantized_layers
    assert {*columns.values()} == {*small.quantized_widths.values()}


@pytest.fixture
def idling(made, tmp_path):
    """A trained model in which some of each are at rest: what they do isn't zero in what measures them."""
    network = attrs.evolve(tiny_model.NETWORK, num_layers=4, num_attention_heads=8, num_key_value_heads=4)
    model = tiny_model.new_model(num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 1::4] *= 1e-3
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[::4] *= 1e-3
            layer.self_attn.v_proj.weight[8:24] *= 1e-3
            for writes in (layer.mlp.down_proj, layer.self_attn.o_proj):
                writes.weight[1::4] *= 1e-3
        for index in (1, 2):
            model.model.layers[index].mlp.down_proj.weight *= 1e-4
            model.model.layers[index].self_attn.o_proj.weight *= 1e-4
    return network, model, written(model, network, made, tmp_path / "idling")


def test_layers_whose_output_is_their_input_go_first(idling, tmp_path):
    _, model, inputs = idling
    directory = pruned(inputs, tmp_path / "out", Layers(num_layers=2))
    found, dense = load_file(directory / "model.safetensors"), model.state_dict()
    for place, layer in enumerate((0, 3)):
        for part in ("mlp.up_proj", "self_attn.q_proj", "input_layernorm"):
            assert torch.equal(
                found[f"model.layers.{place}.{part}.weight"], dense[f"model.layers.{layer}.{part}.weight"]
            )
    assert cards.read(directory, ModelCard).notes == ("layers 1, 2 of 4, counted from 0, were left out",)
    torch.testing.assert_close(logits(directory), logits(model), rtol=0, atol=1e-3)


def test_neurons_and_heads_that_are_at_rest_go_first(idling, tmp_path):
    _, model, inputs = idling
    directory = pruned(inputs, tmp_path / "out", Width(intermediate_size=96, num_key_value_heads=2))
    found, dense = load_file(directory / "model.safetensors"), model.state_dict()
    awake = [each for each in range(128) if each % 4]
    heads = torch.tensor([*range(8), *range(24, 32)])
    queries = torch.tensor([*range(16), *range(48, 64)])
    for layer in range(4):
        name = f"model.layers.{layer}"
        assert torch.equal(found[f"{name}.mlp.down_proj.weight"], dense[f"{name}.mlp.down_proj.weight"][:, awake])
        assert torch.equal(found[f"{name}.self_attn.v_proj.weight"], dense[f"{name}.self_attn.v_proj.weight"][heads])
        assert torch.equal(found[f"{name}.self_attn.q_proj.weight"], dense[f"{name}.self_attn.q_proj.weight"][queries])
        o_proj = dense[f"{name}.self_attn.o_proj.weight"]
        assert torch.equal(found[f"{name}.self_attn.o_proj.weight"], o_proj[:, queries])
    torch.testing.assert_close(logits(directory), logits(model), rtol=0, atol=1e-3)


def test_channels_that_are_at_rest_go_first_and_from_everywhere(idling, tmp_path):
    _, model, inputs = idling
    directory = pruned(inputs, tmp_path / "out", Width(hidden_size=48))
    found, dense = load_file(directory / "model.safetensors"), model.state_dict()
    awake = [each for each in range(64) if each % 4 != 1]
    for name, tensor in dense.items():
        if name.endswith("norm.weight"):
            # The mean square of what is left is larger, since the rest is next to nothing.
            torch.testing.assert_close(found[name], tensor[awake] * (64 / 48) ** 0.5, rtol=1e-4, atol=0)
        elif "o_proj" in name or "down_proj" in name:
            assert torch.equal(found[name], tensor[awake])
        else:
            assert torch.equal(found[name], tensor[:, awake])
    torch.testing.assert_close(logits(directory), logits(model), rtol=0, atol=1e-3)


def test_importance_is_what_its_definition_gives(idling):
    network, model, _ = idling
    token_ids = torch.randint(0, 320, (70, 40), generator=torch.Generator().manual_seed(0))
    found = shrinking.importance(model, network, token_ids, CPU)
    kept = {}
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda _, given, index=index: kept.update({index: given[0]}))
    with torch.no_grad():
        states = model(token_ids, output_hidden_states=True).hidden_states
        channels = states[4].abs().mean((0, 1))
        for index, layer in enumerate(model.model.layers):
            mlp, given = layer.mlp, kept[index]
            activations = silu(given @ mlp.gate_proj.weight.T) * (given @ mlp.up_proj.weight.T)
            torch.testing.assert_close(found.neurons[index], activations.abs().mean((0, 1)), rtol=1e-3, atol=1e-7)
            before, squares = states[index], states[index].square()
            normed = before / (squares.mean(-1, keepdim=True) + 1e-6).sqrt() * layer.input_layernorm.weight
            channels += normed.abs().mean((0, 1)) + given.abs().mean((0, 1))
            name = f"model.layers.{index}"
            of_input = found.squares[f"{name}.input_layernorm.weight"]
            torch.testing.assert_close(of_input, squares.mean((0, 1)), rtol=1e-3, atol=1e-12)
            if index < 3:  # What is given out of the last one is after the norm.
                after = states[index + 1]
                cosine = (before * after).sum(-1) / before.norm(dim=-1) / after.norm(dim=-1)
                torch.testing.assert_close(found.layers[index], (1 - cosine).mean(), rtol=1e-2, atol=1e-5)
                between = (after - activations @ mlp.down_proj.weight.T).square().mean((0, 1))
                of_output = found.squares[f"{name}.post_attention_layernorm.weight"]
                torch.testing.assert_close(of_output, between, rtol=1e-3, atol=1e-12)
        torch.testing.assert_close(found.channels, channels, rtol=1e-3, atol=1e-7)
        assert len(found.squares) == 2 * 4 + 1


def test_the_last_layers_go_without_any_text(made, tmp_path):
    network = NETWORKS["llama"]
    model = network_model(network)
    inputs = {"model": written(model, network, made, tmp_path / "dense")["model"]}
    found = pruned(inputs, tmp_path / "out", Layers(num_layers=1, left_out="last"))
    model.model.layers = model.model.layers[:1]
    assert torch.equal(logits(found), logits(model))
    assert json.loads((tmp_path / "out/metrics.json").read_text())["calibration_sequences"] == 0


def test_a_smaller_model_writes_and_is_made_sparse_and_quantized_at_its_own_size(made, tmp_path):
    network = NETWORKS["tied"]
    inputs = written(network_model(network), network, made, tmp_path / "dense")
    small = pruned(inputs, tmp_path / "small", WIDTH)
    model = AutoModelForCausalLM.from_pretrained(small)
    assert model.generate(TOKENS, max_new_tokens=5, min_new_tokens=5, do_sample=False).shape == (1, 45)
    sparse = pruned(inputs | {"model": small}, tmp_path / "sparse", Magnitude(sparsity=0.5))
    section = QuantizeSection(scheme=W4A16(group_size=16), calibration_samples=8, seed=1)
    quantize.run(tiny_model.stage_context(section, inputs | {"model": sparse}, tmp_path / "rounded"))
    config = json.loads((tmp_path / "rounded/model/config.json").read_text())
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    assert [config[size] for size in sizes] == [48, 32, 4, 2, 8]
    assert cards.read(tmp_path / "rounded/model", ModelCard).network == WIDTH.pruned(network)


def test_what_is_left_of_a_sparse_model_has_its_zeros_and_keeps_them(made, tmp_path):
    network = NETWORKS["qwen2"]
    inputs = written(network_model(network), network, made, tmp_path / "dense")
    sparse = pruned(inputs, tmp_path / "sparse", Magnitude(sparsity=0.5))
    small = pruned(inputs | {"model": sparse}, tmp_path / "small", WIDTH)
    assert cards.read(small, ModelCard).sparse
    section = QuantizeSection(scheme=W4A16(group_size=16), calibration_samples=8, seed=1)
    quantize.run(tiny_model.stage_context(section, inputs | {"model": small}, tmp_path / "rounded"))
    rounded = AutoModelForCausalLM.from_pretrained(tmp_path / "rounded/model")
    logits(rounded)  # Weights are expanded by the first text.
    for name, tensor in load_file(small / "model.safetensors").items():
        if "proj.weight" in name:
            assert 0.3 < (tensor == 0).float().mean() < 0.7
            assert (rounded.get_parameter(name)[tensor == 0] == 0).all()


@pytest.mark.slow
def test_a_student_of_fewer_channels_learns_from_the_whole_model(made, tmp_path):
    narrow = pruned(made, tmp_path / "narrow", Width(hidden_size=48, num_key_value_heads=1))
    inputs = {"teacher": made["model"], "tokens": made["tokens"], "student": narrow}
    run = distilled(tiny_distillation.section(network=None), inputs, tmp_path / "run")

    def forward(student, teacher, _):
        return kl(teacher.double().softmax(-1), student.double().softmax(-1)).mean()

    expected = plain_losses(*map(folders.load_model, (narrow, made["model"])), made["tokens"], forward)
    losses = column(run, "loss")
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]
    assert student_of(run).config.hidden_size == 48


def test_a_model_in_bfloat16_stays_in_it_and_the_same_section_gives_the_same_bytes(made, tmp_path):
    network = NETWORKS["qwen3"]
    inputs = written(network_model(network).to(torch.bfloat16), network, made, tmp_path / "dense")
    first, second = (pruned(inputs, tmp_path / each, WIDTH) for each in ("a", "b"))
    assert artifacts.open_artifact(first, "model") == artifacts.open_artifact(second, "model")
    assert {tensor.dtype for tensor in load_file(first / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("network", "method", "message"),
    [
        (NETWORKS["llama"], Layers(num_layers=3), r"method\.num_layers: 3 is not less than the model's"),
        (NETWORKS["llama"], Width(num_key_value_heads=3), r"num_key_value_heads: 3 leave 6 query .*; use 1 or 2"),
        (NETWORKS["llama"], Width(hidden_size=44), r"hidden_size: 44 is not a multiple of the 8 .*; use 40 or 48"),
        (Bert(hidden_size=64, num_layers=2, num_attention_heads=4), Layers(num_layers=1), r"Bert is an encoder"),
    ],
)
def test_what_cannot_be_left_out_of_a_model_is_refused(made, tmp_path, network, method, message):
    model = tiny_model.write_model(tiny_model.new_model(), made["model"], tmp_path / "model", network=network)
    with pytest.raises(RecipeError, match=message):
        pruned(made | {"model": model}, tmp_path / "out", method)
