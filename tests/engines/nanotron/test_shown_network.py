"""The family of networks that the documentation shows is one, as a stranger would write it down."""

import importlib
import os
import re
import sys
from pathlib import Path

import attrs
import pytest
import torch
from paths import ROOT
from tiny_training import NETWORK, TRAINING, VOCAB_SIZE, column, section, trained, write_tokens

from llmrecipe import Llama, Parallelism, Steps
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.extensions import load_extension
from llmrecipe.recipe.networks.network import Network


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Network:
    """One of the family, whose modules are loaded as a stage loads them."""
    folder = tmp_path_factory.mktemp("recipes")
    chapter = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Adding a network")[2]
    shown = re.findall(r"`recipes/(\w+\.py)`:\n\n```python\n(.*?)^```$", chapter, re.DOTALL | re.MULTILINE)
    assert [name for name, _ in shown] == ["biased.py", "biased_engine.py", "biased_network.py"]
    for name, text in shown:
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        load_extension(folder / "biased.py")
        fields = {field.name: getattr(NETWORK, field.name) for field in attrs.fields(Llama)}
        yield importlib.import_module("biased").BiasedLlama(**fields)


def test_it_computes_what_transformers_does_and_gives_its_weights_back(network):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build

    torch.manual_seed(0)
    architecture = architecture_of(network)
    model = architecture.transformers_class(architecture.transformers_config(network, VOCAB_SIZE, 0)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    state, tokens = model.state_dict(), torch.randint(0, VOCAB_SIZE, (2, 40))
    taken = architecture.from_transformers(state, network)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits

    found = build.logits(taken, network, VOCAB_SIZE, 0, tokens)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    given_back = architecture.to_transformers(taken, network, VOCAB_SIZE)
    assert given_back.keys() == state.keys()
    assert all(torch.equal(given_back[name], state[name]) for name in state)
    assert network.num_parameters(VOCAB_SIZE) == model.num_parameters()


@pytest.mark.slow
def test_it_trains_the_same_on_one_rank_and_on_two(network, tmp_path: Path):
    tokens = write_tokens(tmp_path / "tokens", train=20_000, heldout=2_000)
    short = attrs.evolve(TRAINING, duration=Steps(4), validation_interval=2)
    alone, spread = (
        trained(section(layout, network, short), tokens, tmp_path / name, forks=False)
        for name, layout in (
            ("alone", Parallelism(micro_batch_size=4)),
            ("spread", Parallelism(tensor=2, micro_batch_size=4, tensor_parallel_mode="reduce_scatter")),
        )
    )

    assert column(spread, "loss") == pytest.approx(column(alone, "loss"), rel=1e-5)
    found, expected = (weights.read_whole(run.checkpoint) for run in (spread, alone))
    assert any(name.endswith("o_proj.bias") for name in expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-4)
