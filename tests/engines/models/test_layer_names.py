"""The layers that a network names, for patterns to match without torch, are those that transformers has."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from llmrecipe import Bert, Llama, Mistral, ModernBert, Qwen2, Qwen3
from llmrecipe.engines.models.architecture import architecture_of

WIDTHS = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
NETWORKS = [
    Llama(num_key_value_heads=2, **WIDTHS),
    Mistral(num_key_value_heads=2, head_dim=16, **WIDTHS),
    Qwen2(num_key_value_heads=2, **WIDTHS),
    Qwen3(num_key_value_heads=2, head_dim=16, **WIDTHS),
    Bert(max_position_embeddings=16, **WIDTHS),
    ModernBert(**WIDTHS),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.tag)
def test_quantized_layers_are_transformers_linear_layers_but_the_output_layer(network):
    classes = AutoModelForMaskedLM if network.reads_both_sides else AutoModelForCausalLM
    model = classes.from_config(architecture_of(network).transformers_config(network, 100, 0))
    output = model.get_output_embeddings()
    assert network.quantized_layers == {
        name: module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }
