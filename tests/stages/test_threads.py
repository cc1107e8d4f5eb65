"""The number of threads that a process finds changes no byte of an output."""

from pathlib import Path

import attrs
import pytest
import tiny_model
import tiny_training
import torch

from llmrecipe import CausalLM, Parallelism, artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.nanotron import weights
from llmrecipe.recipe.measure import Perplexity
from llmrecipe.recipe.scheme import W8A16
from llmrecipe.sections import MeasureSection, QuantizeSection
from llmrecipe.stages import measure, quantize

# Each of these gives other bytes with one thread than with two or four, if it is left to them.
WORK = {
    "quantize": (quantize, QuantizeSection(scheme=W8A16(), calibration_samples=64, seed=1), 128),
    "evaluate": (measure, MeasureSection(measure=Perplexity(max_tokens=625)), 125),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return tiny_model.make(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("kind", WORK)
def test_a_stage_gives_the_same_bytes_however_many_threads_its_process_has(made, tmp_path, kind):
    stage, section, length = WORK[kind]
    card = cards.read(made["model"], ModelCard)
    cards.write(made["model"], attrs.evolve(card, objective=CausalLM(sequence_length=length)))
    artifacts.seal(made["model"], "model")
    outputs = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        context = tiny_model.stage_context(section, made, tmp_path / str(threads))
        stage.run(context)
        files = sorted(path for path in context.output.rglob("*") if path.is_file())
        outputs.append({path.relative_to(context.output): path.read_bytes() for path in files})

    assert outputs[0]
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.slow
def test_a_training_gives_the_same_bytes_with_two_threads_as_with_one(tmp_path):
    tokens = tiny_training.write_tokens(tmp_path / "tokens", train=20_000, heldout=2_000)
    # Large enough for torch to share every kind of work: less than 32,768 numbers stay with one thread.
    network = attrs.evolve(tiny_training.NETWORK, hidden_size=128, num_layers=2)
    sections = (
        tiny_training.section(Parallelism(micro_batch_size=8, threads_per_rank=threads), network=network)
        for threads in (1, 2)
    )
    one, two = (
        tiny_training.trained(section, tokens, tmp_path / f"{i}", forks=False) for i, section in enumerate(sections)
    )

    assert one.metrics == two.metrics
    expected, found = weights.read_whole(one.checkpoint), weights.read_whole(two.checkpoint)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
