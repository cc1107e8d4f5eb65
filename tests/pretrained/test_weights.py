import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import NETWORKS, networks

from llmrecipe import Bert, ModernBert
from llmrecipe.engines.models.architecture import architecture_of

ROWS = 7


@pytest.mark.parametrize("kind", NETWORKS)
@settings(max_examples=10)
@given(data=st.data())
def test_they_are_called_and_shaped_as_in_transformers(kind, data):
    network = data.draw(networks(kind))
    architecture = architecture_of(network)
    config = architecture.transformers_config(network, ROWS, 0)
    with torch.device("meta"):
        model = architecture.transformers_class(config)
    theirs = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    weights = network.weights(ROWS)
    own = {**weights.body, **weights.head}
    assert own | {name: own[other] for name, other in weights.tied.items()} == theirs
    assert weights.embedding in weights.body
    # Those of a model without a head lack the prefix.
    body = {weights.own_name(name) for name in model.base_model.state_dict()}
    assert body == set(weights.body)


@pytest.mark.parametrize("kind", NETWORKS)
@given(data=st.data())
def test_their_numbers_are_as_many_as_the_network_says(kind, data):
    network = data.draw(networks(kind))
    weights = network.weights(ROWS)
    assert sum(map(math.prod, (*weights.body.values(), *weights.head.values()))) == network.num_parameters(ROWS)


def test_older_names_are_known():
    weights = Bert(hidden_size=8, num_layers=1, num_attention_heads=2).weights(ROWS)
    assert weights.own_name("embeddings.LayerNorm.gamma") == "bert.embeddings.LayerNorm.weight"
    assert (
        weights.own_name("bert.encoder.layer.0.output.LayerNorm.beta") == "bert.encoder.layer.0.output.LayerNorm.bias"
    )
    assert weights.own_name("cls.predictions.transform.LayerNorm.gamma") == "cls.predictions.transform.LayerNorm.weight"
    assert weights.own_name("encoder.layer.1.output.dense.bias") == "encoder.layer.1.output.dense.bias"
    assert weights.what_is_dropped(weights.own_name("pooler.dense.bias")) == "the pooler"
    assert weights.is_constant(weights.own_name("embeddings.position_ids"))
    modern = ModernBert(hidden_size=8, num_layers=2, num_attention_heads=2).weights(ROWS)
    assert modern.own_name("layers.1.attn_norm.weight") == "model.layers.1.attn_norm.weight"
    assert modern.own_name("head.norm.weight") == "head.norm.weight"
