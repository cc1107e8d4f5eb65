"""An exported model is told from another by what rounding explains, at any size and with weights of any size."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import torch
from tiny_model import write_model, write_tokenizer
from transformers import PreTrainedModel

from llmrecipe import Bert, Llama, ModernBert, Qwen2
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.table import Weights, interleave
from llmrecipe.engines.nanotron.parity import agreement, altered_weights
from llmrecipe.recipe.networks.network import Network

VOCAB_SIZE = 320
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = Llama(hidden_size=64, num_layers=2, **HEADS)
NETWORKS: dict[str, Network] = {
    "llama": LLAMA,
    "qwen2": Qwen2(hidden_size=64, num_layers=2, **HEADS),
    "bert": Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    "modern-bert": ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4),
}
SIZES = {
    "small": LLAMA,
    "wide": attrs.evolve(LLAMA, hidden_size=1024, num_attention_heads=16),
    "deep": attrs.evolve(LLAMA, num_layers=48),
    "both": attrs.evolve(LLAMA, hidden_size=512, num_layers=8, num_attention_heads=8),
    "bert": attrs.evolve(NETWORKS["bert"], hidden_size=256, num_layers=8),
}


def drawn(network: Network, initializer_range: float) -> PreTrainedModel:
    """transformers' network, with biases and norms that are not 0 and 1."""
    torch.manual_seed(0)
    config = architecture_of(network).transformers_config(network, VOCAB_SIZE, 0)
    model = architecture_of(network).transformers_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
            else:
                # A recipe can't ask for more than 1, but training can come to it.
                parameter.mul_(initializer_range / network.initializer_range)
    return model


def exported(model: PreTrainedModel, network: Network, folder: Path) -> Path:
    write_tokenizer(folder / "tokenizer")
    return write_model(model, folder / "tokenizer", folder / "model", network=network)


def faults(state: Weights, network: Network) -> Iterator[tuple[str, Weights]]:
    """What an export could get wrong of the weights of one layer, under transformers' names."""
    for name, tensor in state.items():
        if "layers.1." not in name and "layer.1." not in name:
            continue
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            yield f"{name} in nanotron's order", {name: interleave(tensor, network.head_size)}
        if name.endswith("Wqkv.weight"):
            query, key, value = tensor.chunk(3)
            yield f"{name} in nanotron's order", {name: torch.cat((interleave(query, network.head_size), key, value))}
        if name.endswith("gate_proj.weight"):
            other = name.replace("gate", "up")
            yield "gate and up swapped", {name: state[other], other: tensor}
        if name.endswith("Wi.weight"):
            yield "gate and up swapped", {name: torch.cat(tensor.chunk(2)[::-1])}
        if name.endswith("bias") and not name.endswith(("key.bias", "norm.bias", "Norm.bias")):
            yield f"{name} missing", {name: torch.zeros_like(tensor)}
        if "norm" in name.lower() and name.endswith("weight"):
            yield f"{name} missing", {name: torch.ones_like(tensor)}
        if tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1]:
            yield f"{name} transposed", {name: tensor.t().contiguous()}


@pytest.mark.parametrize("initializer_range", [0.02, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_a_right_export_is_told_as_one_whatever_its_width_depth_and_weights(tmp_path, size, initializer_range):
    network = SIZES[size]
    model = drawn(network, initializer_range)
    trained = architecture_of(network).from_transformers(model.state_dict(), network)
    folder = exported(model, network, tmp_path)

    found = agreement(trained, network, VOCAB_SIZE, 0, folder)
    assert 0 < found.difference < 6 * found.rounding
    assert altered_weights(trained, network, VOCAB_SIZE, folder) == []

    tokens = torch.randint(0, VOCAB_SIZE, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = model(input_ids=tokens, use_cache=False).logits
        exact = model.double()(input_ids=tokens, use_cache=False).logits
    assert found.rounding == pytest.approx((single - exact).abs().max().item(), rel=1e-3)
    assert found.largest == pytest.approx(exact.abs().max().item())


@pytest.mark.parametrize("initializer_range", [0.02, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_whatever_is_wrong_in_one_layer_is_more_than_rounding(tmp_path, name, initializer_range):
    network, model = NETWORKS[name], drawn(NETWORKS[name], initializer_range)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folder = exported(model, network, tmp_path)
    unseen, count = [], 0
    for fault, changes in faults(state, network):
        trained = architecture_of(network).from_transformers(state | changes, network)
        count += 1
        if agreement(trained, network, VOCAB_SIZE, 0, folder).is_explained_by_rounding:
            unseen.append(fault)
    assert (unseen, count > 4) == ([], True)


@pytest.mark.parametrize("initializer_range", [0.0002, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_rounded_weight_is_named_however_little_it_does(tmp_path, name, initializer_range):
    network, model = NETWORKS[name], drawn(NETWORKS[name], initializer_range)
    architecture = architecture_of(network)
    trained = architecture.from_transformers(model.state_dict(), network)
    folder = exported(model, network, tmp_path)
    for weight, tensor in trained.items():
        rounded = trained | {weight: tensor.bfloat16().float()}
        assert altered_weights(rounded, network, VOCAB_SIZE, folder) == [weight]


def test_a_model_whose_logits_are_all_rounding_is_known_as_one(tmp_path):
    network = attrs.evolve(NETWORKS["bert"], hidden_size=256, num_layers=8)
    model = drawn(network, 2.0)
    trained = architecture_of(network).from_transformers(model.state_dict(), network)
    assert agreement(trained, network, VOCAB_SIZE, 0, exported(model, network, tmp_path)).proves_nothing
