"""Each family computes in nanotron what it computes in transformers, and gives back the weights that it was given."""

import copy
from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from own_rank import own_rank
from plain_training import plain_losses
from tiny_training import LENGTH as SEQUENCE_LENGTH
from tiny_training import MASKING, STILL, TRAINING, VOCAB_SIZE, column, section, trained, write_tokens
from transformers import PreTrainedModel

from llmrecipe import (
    Bert,
    CausalLM,
    Dropout,
    Llama,
    Llama3RopeScaling,
    MaskedLM,
    Mistral,
    ModernBert,
    Parallelism,
    Qwen2,
    Qwen3,
    Steps,
)
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import launcher, weights
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


def random_model(network: Network, vocab_size: int, noise: float = 0.3) -> PreTrainedModel:
    """transformers' model, of which no bias is 0 and no norm is 1."""
    torch.manual_seed(0)
    architecture = architecture_of(network)
    model = architecture.transformers_class(architecture.transformers_config(network, vocab_size, 0)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=noise)
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


SHAPE = {"hidden_size": 64, "num_layers": 4, "num_attention_heads": 4}
DECODER = {**SHAPE, "num_key_value_heads": 2}
NETWORKS = {
    "llama": Llama(
        **DECODER,
        rope_scaling=Llama3RopeScaling(factor=4.0, original_max_position_embeddings=32),
        tie_word_embeddings=True,
    ),
    "mistral": Mistral(**DECODER, sliding_window=20),
    # The second of two tensor-parallel ranks has nothing but padding of the output layer.
    "qwen2": Qwen2(**DECODER, make_vocab_size_divisible_by=1024),
    "qwen3": Qwen3(**DECODER | {"hidden_size": 48}, head_dim=24),
    "bert": Bert(**SHAPE, max_position_embeddings=SEQUENCE_LENGTH, type_vocab_size=3),
    "modernbert": ModernBert(**SHAPE, local_attention=21, local_rope_theta=500.0),
}
ALONE = Parallelism(micro_batch_size=4)
TENSOR = Parallelism(tensor=2, micro_batch_size=4, async_tensor_parallel=True)
PIPELINE = Parallelism(pipeline=2, micro_batch_size=2)
LAYOUTS = {
    "tensor": TENSOR,
    "data, sequence": attrs.evolve(
        TENSOR, data=2, micro_batch_size=2, zero_stage=1, tensor_parallel_mode="reduce_scatter"
    ),
    "pipeline": attrs.evolve(PIPELINE, recompute_activations=True),
}
SHORT = attrs.evolve(TRAINING, duration=Steps(5))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", masking=MASKING, train=20_000, heldout=2_000)


@pytest.fixture
def start(monkeypatch):
    """Makes a run start from the weights of a model of transformers."""

    def starting_from(model: PreTrainedModel, network: Network) -> None:
        taken = architecture_of(network).from_transformers(copy.deepcopy(model.state_dict()), network)
        monkeypatch.setattr(launcher, "first_weights", lambda *_: taken)

    return starting_from


def section_of(network: Network, layout: Parallelism, training=SHORT):
    objective = (MaskedLM if network.reads_both_sides else CausalLM)(sequence_length=SEQUENCE_LENGTH)
    return attrs.evolve(section(layout, network, training), objective=objective)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_comes_back_from_every_layout_as_it_was(tokens, tmp_path, start, name):
    network = NETWORKS[name]
    architecture, model = architecture_of(network), random_model(network, VOCAB_SIZE)
    input_ids = torch.randint(0, VOCAB_SIZE, (2, 60), generator=torch.Generator().manual_seed(0))
    start(model, network)
    with own_rank():
        runs = [trained(section_of(network, ALONE, STILL), tokens, tmp_path / "alone")]
    runs += [
        trained(section_of(network, layout, STILL), tokens, tmp_path / f"{number}")
        for number, layout in enumerate((TENSOR, PIPELINE))
    ]

    for number, run in enumerate(runs):
        back = architecture.transformers_network(weights.read_whole(run.checkpoint), network, VOCAB_SIZE, 0)
        back.save_pretrained(tmp_path / f"back {number}")
        loaded = architecture.transformers_class.from_pretrained(tmp_path / f"back {number}").eval()

        assert all(torch.equal(loaded.state_dict()[key], weight) for key, weight in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(loaded(input_ids=input_ids).logits, model(input_ids=input_ids).logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plain_loop_over_transformers_trains_the_same(tokens, tmp_path, start, name):
    network = NETWORKS[name]
    model = random_model(network, VOCAB_SIZE, noise=0.05)
    start(model, network)
    with own_rank():
        run = trained(section_of(network, ALONE), tokens, tmp_path)
    objective = run.job.section.objective if network.reads_both_sides else None

    assert column(run, "loss") == pytest.approx(
        plain_losses(tokens, SHORT, network, objective=objective, model=model), rel=1e-4
    )
    assert_weights_close(run, architecture_of(network).from_transformers(model.state_dict(), network))


@pytest.mark.slow
# Layouts of the others are in `test_train.py` and `test_masked_training.py`.
@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "modernbert"])
def test_every_layout_trains_the_same(tokens, tmp_path, start, name):
    network = NETWORKS[name]
    start(random_model(network, VOCAB_SIZE, noise=0.05), network)
    with own_rank():
        alone = trained(section_of(network, ALONE), tokens, tmp_path / "alone")

    for layout, parallelism in LAYOUTS.items():
        spread = trained(section_of(network, parallelism), tokens, tmp_path / layout)
        for of in ("loss", "validation_loss"):
            assert column(spread, of) == pytest.approx(column(alone, of), rel=1e-5), layout
        assert column(spread, "grad_norm") == pytest.approx(column(alone, "grad_norm"), rel=1e-4), layout
        assert_weights_close(spread, weights.read_whole(alone.checkpoint))


def assert_weights_close(run, expected: dict[str, torch.Tensor]) -> None:
    found = weights.read_whole(run.checkpoint)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_window_goes_with_documents_dropout_and_recomputation(tmp_path, start):
    """Documents, of which most are longer than the window, train as if each were one by itself."""
    tokens = write_tokens(tmp_path / "tokens", train=20_000, heldout=2_000, end_of_text_id=60)
    network = NETWORKS["mistral"]
    model = random_model(network, VOCAB_SIZE, noise=0.05)
    objective = CausalLM(sequence_length=SEQUENCE_LENGTH, restart_at_documents=True)
    dropping = attrs.evolve(SHORT, dropout=Dropout(residual=0.1, attention=0.2, embedding=0.1))
    spread = Parallelism(
        tensor=2, pipeline=2, micro_batch_size=2, tensor_parallel_mode="reduce_scatter", recompute_activations=True
    )
    start(model, network)

    def run(folder: str, layout: Parallelism, training) -> list[float]:
        what = attrs.evolve(section(layout, network, training), objective=objective)
        return column(trained(what, tokens, tmp_path / folder), "loss")

    with own_rank():
        plain, alone = run("plain", ALONE, SHORT), run("alone", ALONE, dropping)

    assert plain == pytest.approx(plain_losses(tokens, SHORT, network, begin=60, model=model), rel=1e-4)
    assert run("spread", spread, dropping) == pytest.approx(alone, rel=1e-5)
    assert alone != pytest.approx(plain, rel=1e-4)
