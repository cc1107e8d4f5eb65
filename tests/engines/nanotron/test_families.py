"""Each family computes in nanotron what it computes in transformers, and gives back the weights that it was given."""

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from llmrecipe import Bert, Llama, Llama3RopeScaling, Mistral, ModernBert, Qwen2, Qwen3
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.recipe.networks.network import Network

FAMILIES = (Llama, Mistral, Qwen2, Qwen3, Bert, ModernBert)

LENGTH = 24
"""More than most of the windows."""

scalings = st.builds(
    Llama3RopeScaling,
    factor=st.floats(1, 32),
    low_freq_factor=st.floats(0.5, 2),
    high_freq_factor=st.floats(3, 8),
    # So short that some of a small head's wavelengths are longer, and some shorter.
    original_max_position_embeddings=st.integers(8, 128),
)


@st.composite
def small_networks(draw, family: type[Network]) -> Network:
    """A network of some hundred weights."""
    key_value_heads = draw(st.integers(1, 3))
    heads = key_value_heads * draw(st.integers(1, 3))
    shared = {
        "num_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(1, 40)),
        "max_position_embeddings": draw(st.integers(LENGTH, 64)),
        "make_vocab_size_divisible_by": draw(st.integers(1, 32)),
    }
    eps = draw(st.sampled_from([1e-12, 1e-6, 1e-2]))
    if family is Bert:
        width, segments = heads * draw(st.integers(2, 9)), draw(st.integers(1, 3))
        return Bert(hidden_size=width, type_vocab_size=segments, layer_norm_eps=eps, **shared)
    shared |= {"hidden_size": heads * 2 * draw(st.integers(1, 6)), "rope_theta": draw(st.floats(10, 1e6))}
    if family is ModernBert:
        return ModernBert(
            layer_norm_eps=eps,
            local_attention=draw(st.none() | st.integers(2, 60)),
            global_attn_every_n_layers=draw(st.integers(1, 3)),
            local_rope_theta=draw(st.floats(10, 1e6)),
            **shared,
        )
    if draw(st.booleans()):
        # transformers' Llama wants a multiple, whatever the width of a head.
        step = heads if family is Llama else 1
        shared |= {"head_dim": 2 * draw(st.integers(1, 8)), "hidden_size": step * draw(st.integers(2, 40 // step))}
    if family is Mistral:
        shared["sliding_window"] = draw(st.none() | st.integers(1, 30))
    return family(
        num_key_value_heads=key_value_heads,
        rms_norm_eps=eps,
        rope_scaling=draw(st.none() | scalings),
        tie_word_embeddings=draw(st.booleans()),
        **shared,
    )


def random_model(network: Network, vocab_size: int) -> PreTrainedModel:
    """transformers' model, of which no bias is 0 and no norm is 1."""
    torch.manual_seed(0)
    architecture = architecture_of(network)
    model = architecture.transformers_class(architecture.transformers_config(network, vocab_size, 0)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model


def tokens_of(vocab_size: int) -> torch.Tensor:
    return torch.randint(0, vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To 1e-4 of the largest."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_computes_the_same_in_both_libraries_and_gives_its_weights_back(family):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build

    @settings(max_examples=25)
    @given(small_networks(family), st.integers(2, 70))
    def check(network: Network, vocab_size: int) -> None:
        model, architecture, tokens = random_model(network, vocab_size), architecture_of(network), tokens_of(vocab_size)
        state = model.state_dict()
        taken = architecture.from_transformers(state, network)
        with torch.no_grad():
            expected = model(input_ids=tokens).logits

        assert_close(build.logits(taken, network, vocab_size, 0, tokens), expected)
        given_back = architecture.to_transformers(taken, network, vocab_size)
        # All but what is there under another name.
        assert state.keys() - given_back.keys() <= architecture.tied.keys()
        assert all(torch.equal(given_back[name], state[name]) for name in given_back)

    check()
