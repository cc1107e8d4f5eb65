"""What a release needs of its text is known before a model is made for it."""

import numpy as np
import pytest
from tiny_recipe import BASE, RECIPE, SMALLER

from llmrecipe import Fraction, Release, dvcfiles, evolve, gate, measure
from llmrecipe.engines.tokens.writing import write_tokens
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.stages.runner import run_stage

HELD_OUT = evolve(BASE, text__heldout=Fraction(0.1))
RELEASED = evolve(
    RECIPE,
    models=(HELD_OUT, evolve(SMALLER, model=HELD_OUT)),
    release=Release(
        candidates=(evolve(SMALLER, model=HELD_OUT), HELD_OUT),
        gates=(gate.Recovery(at_least=0.9),),
    ),
)


@pytest.mark.parametrize(
    ("held_out", "max_tokens", "documents"),
    [(29, 10_000, 29), (40, 20 * 50, 20), (40, 20 * 50 + 1, 21), (0, 10_000, 0)],
)
def test_a_training_does_not_begin_for_a_recovery_of_too_few_documents(
    tmp_path, monkeypatch, held_out, max_tokens, documents
):
    reason = (
        rf"(?s)tiny-train is begun in vain:.*small-release can't run: gate.Recovery needs at least 30 held-out "
        rf"documents, and tiny-w4a16-perplexity reads {documents}; raise its max_tokens, or hold out more text"
    )
    with pytest.raises(StageError, match=reason):
        train(tmp_path, monkeypatch, held_out, max_tokens)


def test_thirty_are_enough(tmp_path, monkeypatch):
    train(tmp_path, monkeypatch, 30, 10_000)


def train(folder, monkeypatch, held_out: int, max_tokens: int) -> None:
    """The stage that trains, but for the training, with so many held-out documents of 50 tokens."""
    recipe = evolve(RELEASED, measures=(measure.Perplexity(max_tokens=max_tokens),))
    (folder / ".dvc").mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("llmrecipe.stages.train.run", lambda context: None)
    dvcfiles.write(plan([recipe]), folder, references={"small": "small.py"})
    stages = {stage.name: stage for stage in plan([recipe]).stages}
    document = np.array([1] * 49 + [0])
    splits = {"train": [np.tile(document, 30)], "heldout": [np.tile(document, held_out)]}
    write_tokens(folder / stages["tiny-train"].inputs["tokens"], splits, vocab_size=300)
    run_stage("train", name="tiny-train", output=folder / "artifacts/tiny/train", params=folder / "params/tiny.yaml")
