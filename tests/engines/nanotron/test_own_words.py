"""A network and an objective of the user's own, in modules next to the recipes."""

import importlib
import os
import sys

import attrs
import pytest
from tiny_model import stage_context
from tiny_training import LENGTH, NETWORK, TRAINING, section, trained, write_tokens

from llmrecipe import Parallelism, Recipe, Steps, evolve
from llmrecipe.cards import ModelCard, read
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.errors import StageError
from llmrecipe.extensions import load_extension
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.schema import define
from llmrecipe.stages import train

WORDS = '''
from typing import ClassVar

from llmrecipe.extend import Objective, define
from llmrecipe.recipe.networks.llama import Llama


@define("own_llama")
class OwnLlama(Llama):
    """A Llama of one's own."""

    module: ClassVar[str] = "own_engine"


@define("noisy_lm")
class NoisyLM(Objective):
    """Predict every token from those before it, some of which are replaced."""

    module: ClassVar[str] = "own_reader"
    is_masked: ClassVar[bool] = False

    noise_rate: float = 0.5
    """Share of the tokens that are replaced by the end of text."""
'''

ENGINE = """
from llmrecipe.engines.models.llama.architecture import LlamaArchitecture

ARCHITECTURE = LlamaArchitecture()
"""

READER = """
import attrs
import numpy as np
import torch

from llmrecipe.engines.nanotron.data import CausalReader


@attrs.frozen(kw_only=True, eq=False)
class NoisyReader(CausalReader):
    rate: float

    def read(self, samples):
        batch = super().read(samples)
        if self.shard.reads_input:
            for row, (window, epoch) in enumerate(samples):
                replaced = np.random.default_rng([epoch, window]).random(self.sequence_length) < self.rate
                batch["input_ids"][row][torch.from_numpy(replaced)] = self.files.end_of_text_id
        return batch


def reader(job, split, shard):
    rate = job.section.objective.noise_rate if split == "train" else 0.0
    return NoisyReader(files=job.open_tokens(split), shard=shard, sequence_length=job.sequence_length, rate=rate)
"""

SHORT = attrs.evolve(TRAINING, duration=Steps(4), validation_interval=2)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The module of the words, loaded as a stage loads it."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "own_words.py").write_text(WORDS)
    (folder / "own_engine.py").write_text(ENGINE)
    (folder / "own_reader.py").write_text(READER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        load_extension(folder / "own_words.py")
        yield importlib.import_module("own_words")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.mark.slow
def test_a_network_of_ones_own_is_trained_by_its_architecture_on_every_rank(tokens, tmp_path, words):
    fields = {field.name: getattr(NETWORK, field.name) for field in attrs.fields(Llama)}
    own = section(Parallelism(tensor=2, micro_batch_size=4), words.OwnLlama(**fields), SHORT)
    context = stage_context(own, {"tokens": tokens}, tmp_path / "own", device="cpu")
    train.run(context)
    same = trained(evolve(own, network=NETWORK), tokens, tmp_path / "same")

    assert (tmp_path / "own/checkpoint/metrics.jsonl").read_text().count("\n") == len(same.metrics) == 4
    card = read(tmp_path / "own/checkpoint", ModelCard)
    assert type(card.network) is words.OwnLlama
    metrics = context.output / "metrics.json"
    assert f'"loss": {same.metrics[-1]["loss"]}' in metrics.read_text()


@pytest.mark.slow
def test_an_objective_of_ones_own_is_read_by_its_reader_alike_in_every_layout(tokens, tmp_path, words):
    noisy = [
        attrs.evolve(section(layout, training=SHORT), objective=words.NoisyLM(sequence_length=LENGTH))
        for layout in (Parallelism(micro_batch_size=4), Parallelism(data=2, micro_batch_size=2))
    ]
    one, other = (trained(what, tokens, tmp_path / f"{i}", forks=False) for i, what in enumerate(noisy))
    plain = trained(section(training=SHORT), tokens, tmp_path / "plain")

    losses = [[row["loss"] for row in run.metrics] for run in (one, other, plain)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)
    # Held-out text is read as it is: what differs is what was learned.
    assert one.metrics[1]["validation_loss"] == pytest.approx(plain.metrics[1]["validation_loss"], rel=0.05)


def test_every_stage_that_reads_a_card_gets_the_module_that_defines_its_words(words):
    from tiny_recipe import BASE, SMALLER

    base = evolve(BASE, objective=words.NoisyLM(sequence_length=32))
    stages = plan([Recipe(name="own", models=(base, evolve(SMALLER, model=base)))]).stages

    with_words = {stage.kind for stage in stages if base.objective in stage.facts}
    assert with_words == {"train", "export", "quantize", "measure", "report"}


def test_a_network_that_no_engine_knows_is_refused():
    @define("nobodys_llama")
    class NobodysLlama(Llama):
        pass

    fields = {field.name: getattr(NETWORK, field.name) for field in attrs.fields(Llama)}
    with pytest.raises(StageError, match="NobodysLlama names no module with an ARCHITECTURE; set `module`"):
        architecture_of(NobodysLlama(**fields))
