"""The error of a layer is what exchanging it alone does."""

import copy

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from llmrecipe.engines.evaluation.layers import layer_errors

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def of_family(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    match name:
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()
        case "bert":
            return BertForMaskedLM(BertConfig(**SIZES)).eval()
    return ModernBertForMaskedLM(ModernBertConfig(**SIZES, pad_token_id=0)).eval()


TOKENS = torch.from_numpy(np.random.default_rng(0).integers(1, 64, (3, 16)))
LAYERS = {
    "llama": "model.layers.1.mlp.down_proj",
    "bert": "bert.encoder.layer.1.attention.self.value",
    "modern_bert": "model.layers.1.mlp.Wo",
}


@pytest.mark.parametrize("family", LAYERS)
def test_one_layer_that_differs_has_the_error_of_its_output_and_of_its_block_and_the_others_have_none(family):
    parent, name = of_family(family), LAYERS[family]
    model = copy.deepcopy(parent)
    with torch.no_grad():
        model.get_submodule(name).weight += 0.01 * torch.randn_like(model.get_submodule(name).weight)

    found = layer_errors(parent, model, TOKENS.split(1))

    # A straight pass through each: what is before the layer is the same in both.
    outputs = [outputs_of(each, family, name, TOKENS) for each in (parent, model)]
    for error, (right, wrong) in zip(
        (found[name].output_error, found[name].stream_error), zip(*outputs, strict=True), strict=True
    ):
        by_hand = ((wrong - right).square().sum(-1) / right.square().sum(-1)).mean()
        assert error == pytest.approx(by_hand.item(), rel=1e-4)
    assert {each for each, error in found.items() if error.stream_error or error.output_error} == {name}


def outputs_of(model, family, name, tokens) -> list[torch.Tensor]:
    """What a layer gives, and what its block hands on."""
    block = name.split(".1.")[0] + ".1"
    seen = {}

    def keep(place):
        return lambda module, args, output: seen.update({place: output[0] if isinstance(output, tuple) else output})

    handles = [model.get_submodule(place).register_forward_hook(keep(place)) for place in (name, block)]
    with torch.no_grad():
        model.base_model(input_ids=tokens)
    for handle in handles:
        handle.remove()
    return [seen[name].double(), seen[block].double()]


def test_every_linear_layer_of_the_blocks_is_compared_and_the_models_stay_as_they_are():
    parent, model = of_family("llama"), of_family("llama")
    weights = {name: weight.clone() for name, weight in parent.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    found = layer_errors(parent, model, [TOKENS])
    assert len(found) == 2 * 7
    assert all(error.output_error > 0 and error.stream_error > 0 for error in found.values())
    assert all(type(module).__name__ != "_Called" for module in parent.modules())
    assert all(torch.equal(weight, weights[name]) for name, weight in parent.state_dict().items())
