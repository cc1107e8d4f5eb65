"""Compiled layers compute what the others do, and say when they can't be."""

import logging
import sysconfig
from pathlib import Path

import attrs
import pytest
import torch
from tiny_training import LENGTH, MASKING, NETWORK, SHORT, column, section, trained, write_tokens

from llmrecipe import Bert, Dropout, Llama, Machine, MaskedLM, Parallelism, Steps
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.compiling import PAYS_FROM, compiles
from llmrecipe.errors import StageError
from llmrecipe.recipe.networks.network import Network
from llmrecipe.sections import TrainSection

BERT = Bert(hidden_size=64, num_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH)
DROPPING = section(training=attrs.evolve(SHORT, dropout=Dropout(residual=0.1)))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", masking=MASKING, train=20_000, heldout=2_000)


def run(network: Network) -> TrainSection:
    what = section(network=network, training=SHORT)
    return what if isinstance(network, Llama) else attrs.evolve(what, objective=MaskedLM(sequence_length=LENGTH))


@pytest.mark.slow
@pytest.mark.parametrize("network", [NETWORK, BERT], ids=["decoder", "encoder"])
def test_compiled_layers_differ_by_rounding_and_give_the_same_bits_every_time(tokens, tmp_path, monkeypatch, network):
    monkeypatch.chdir(tmp_path)
    plain = trained(run(network), tokens, tmp_path / "plain", forks=False)
    found, again = (
        trained(run(network), tokens, tmp_path / name, forks=False, compile=True) for name in ("found", "again")
    )

    assert column(found, "loss") == pytest.approx(column(plain, "loss"), rel=1e-5)
    assert found.metrics == again.metrics
    one, other = (weights.read_whole(result.checkpoint) for result in (found, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not all(torch.equal(one[name], weight) for name, weight in weights.read_whole(plain.checkpoint).items())
    # Nothing outside the project.
    assert any((tmp_path / ".llmrecipe" / "compiled").iterdir())
    assert found.measurements["compiled"] is True
    assert "compiled" not in plain.measurements


LARGE = attrs.evolve(NETWORK, hidden_size=1024, intermediate_size=4096, num_layers=6)


def is_compiled(what: TrainSection, machine: Machine, network: Network = NETWORK, device: str = "cpu") -> bool:
    return compiles(what, machine, device, "t-train", network=network, rows=512)


@pytest.mark.parametrize(
    "what", [DROPPING, section(Parallelism(tensor=2, micro_batch_size=4))], ids=["dropout", "tensor"]
)
def test_layers_that_draw_or_exchange_are_not_compiled(what):
    for machine in (Machine(compile=True), Machine()):
        assert not is_compiled(what, machine, LARGE)
    assert is_compiled(section(), Machine(compile=True))
    assert not is_compiled(section(), Machine(compile=False), LARGE)


def test_by_itself_a_cpu_compiles_what_is_large_enough_if_it_can(monkeypatch):
    tokens = section().parallelism.micro_batch_size * LENGTH
    assert tokens * NETWORK.num_parameters(512) < PAYS_FROM < tokens * LARGE.num_parameters(512)
    assert is_compiled(section(), Machine(), LARGE)
    assert not is_compiled(section(), Machine(), NETWORK)
    assert not is_compiled(section(), Machine(), LARGE, device="cuda")
    assert not is_compiled(section(), Machine(), attrs.evolve(BERT, hidden_size=1024, num_layers=6))
    # As long as it likes: a longer run goes on where a shorter one has ended.
    assert not is_compiled(section(training=attrs.evolve(SHORT, duration=Steps(10**6))), Machine(), NETWORK)

    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not is_compiled(section(), Machine(), LARGE)


@pytest.mark.slow
def test_a_run_that_cannot_be_compiled_says_why(tokens, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="llmrecipe"):
        trained(DROPPING, tokens, tmp_path, compile=True)

    assert "its layers aren't compiled: training.dropout draws" in caplog.text


def test_without_a_compiler_it_is_said_what_would_help(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(StageError, match=r"machine\.compile: .*'no-such-compiler', which isn't there; install it"):
        is_compiled(section(), Machine(compile=True))


def test_without_pythons_headers_it_is_said_what_would_help(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    assert not is_compiled(section(), Machine(), LARGE)
    with pytest.raises(
        StageError, match=r"machine\.compile: .* Python\.h, which isn't there; install Python's headers"
    ):
        is_compiled(section(), Machine(compile=True))
