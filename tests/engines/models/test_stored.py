"""Weights pass through files, and networks compute in float32, with the same numbers as in memory."""

import attrs
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from llmrecipe import Bert, Llama, ModernBert
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.parts import compute_in
from llmrecipe.engines.models.stored import on_disk, write_weights
from llmrecipe.recipe.networks.network import Network

LLAMA = Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2)
NETWORKS: dict[str, Network] = {
    "llama": LLAMA,
    "tied": attrs.evolve(LLAMA, tie_word_embeddings=True),
    "bert": Bert(hidden_size=64, num_layers=2, num_attention_heads=4),
    "modern-bert": ModernBert(hidden_size=64, num_layers=2, num_attention_heads=4),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool])
@pytest.mark.parametrize("shape", [(), (3,), (5, 7), (0, 4)])
def test_a_tensor_on_disk_has_the_same_numbers_and_leaves_no_file(tmp_path, dtype, shape):
    tensor = torch.rand(shape).mul(4).to(dtype)
    kept = on_disk(tensor, tmp_path)
    assert (kept.dtype, kept.shape) == (dtype, tensor.shape)
    assert kept.tolist() == tensor.tolist()
    assert not list(tmp_path.iterdir())


def test_a_transposed_tensor_is_written_in_order(tmp_path):
    tensor = torch.arange(12.0).view(3, 4).t()
    assert torch.equal(on_disk(tensor, tmp_path), tensor)


def test_weights_that_are_made_one_at_a_time_are_written_whole(tmp_path):
    weights = {f"layer.{number}": torch.full((4, 2), number, dtype=torch.bfloat16) for number in range(3)}
    write_weights(tmp_path, ((name, tensor) for name, tensor in weights.items()))
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_part_by_part_what_it_computes_in_float32(name):
    network = NETWORKS[name]
    torch.manual_seed(0)
    config = architecture_of(network).transformers_config(network, 300, 0)
    kind = AutoModelForMaskedLM if network.reads_both_sides else AutoModelForCausalLM
    model = kind.from_config(config).bfloat16().eval()
    stored = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    tokens = torch.arange(64).view(2, 32)
    compute_in(model, torch.float32)
    with torch.no_grad():
        found = model(input_ids=tokens).logits
        after = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        expected = kind.from_config(config).bfloat16().float().eval()
        expected.load_state_dict({key: tensor.float() for key, tensor in stored.items()})
        assert torch.equal(found, expected(input_ids=tokens).logits)
    assert found.dtype == torch.float32
    assert all(torch.equal(after[key], tensor) and after[key].dtype == tensor.dtype for key, tensor in stored.items())
