"""What a release needs of its text is known before a model is made for it."""

import numpy as np
import pytest
import yaml
from tiny_recipe import BASE, RECIPE, SMALLER

from llmrecipe import Fraction, Release, cards, dvcfiles, evolve, gate, measure
from llmrecipe.cards import DocumentsCard
from llmrecipe.cli.main import main
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
        r"(?s)tiny-train is begun in vain:.*small-release can't run: gate.Recovery needs at least 30 held-out "
        rf"documents, of each corpus 5, and tiny-w4a16-perplexity has {documents} to read; raise its max_tokens, or "
    )
    with pytest.raises(StageError, match=reason):
        train(tmp_path, monkeypatch, held_out, max_tokens)


@pytest.mark.parametrize(("prepared", "is_enough"), [(29, False), (30, True)])
def test_nor_does_it_while_only_the_documents_are_there(tmp_path, monkeypatch, prepared, is_enough):
    project(tmp_path, monkeypatch, 0, 10_000, tokenized=False, prepared=prepared)
    if is_enough:
        run(tmp_path, monkeypatch, "tiny-train")
    else:
        with pytest.raises(StageError, match="tiny-w4a16-perplexity has 29 to read; raise its max_tokens"):
            run(tmp_path, monkeypatch, "tiny-train")


RECIPE_FILE = """
from tiny_recipe import BASE, RECIPE, SMALLER
from llmrecipe import Fraction, Recipe, Release, evolve, gate, measure


def small() -> Recipe:
    base = evolve(BASE, text__heldout=Fraction(HELD_OUT))
    models = (base, evolve(SMALLER, model=base))
    release = Release(candidates=models[::-1], gates=(gate.Recovery(at_least=0.9),))
    return evolve(RECIPE, models=models, release=release, measures=(measure.Perplexity(max_tokens=10_000),))
"""


@pytest.mark.parametrize("tokenized", [True, False])
def test_nothing_is_planned_for_it_once_they_are_counted(tmp_path, monkeypatch, capsys, tokenized):
    project(tmp_path, monkeypatch, 29, 10_000, tokenized=tokenized, prepared=29)
    (tmp_path / "data/books").mkdir(parents=True)
    (tmp_path / "data/books/one.txt").write_text("one")
    (tmp_path / "recipes").mkdir()
    recipe = tmp_path / "recipes/small.py"
    recipe.write_text(RECIPE_FILE.replace("HELD_OUT", "0.1"))
    for command in ("check", "plan"):
        assert main([command, "small"]) == 1
        reason = "small-release: gate.Recovery needs at least 30 held-out documents, of each corpus 5, and tiny-w4a16-"
        assert f"{reason}perplexity has 29 to read; raise its max_tokens" in capsys.readouterr().err
    # Text that is to be split anew isn't counted yet.
    recipe.write_text(RECIPE_FILE.replace("HELD_OUT", "0.5"))
    assert main(["check", "small"]) == 0


@pytest.mark.parametrize("tokenized", [True, False])
def test_what_was_counted_of_other_files_is_not_held_against_it(tmp_path, monkeypatch, capsys, tokenized):
    project(tmp_path, monkeypatch, 29, 10_000, tokenized=tokenized, prepared=29)
    books = tmp_path / "data/books"
    books.mkdir(parents=True)
    (books / "one.txt").write_text("one")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/small.py").write_text(RECIPE_FILE.replace("HELD_OUT", "0.1"))
    lock(tmp_path, "books-prepare", deps=[{"path": "data/books", "md5": "1.dir", "size": 3}])
    assert main(["check", "small"]) == 1
    (books / "two.txt").write_text("two")
    assert main(["check", "small"]) == 0
    # Nor what was counted of documents that have been prepared anew since.
    (books / "two.txt").unlink()
    made = {"path": "artifacts/books/prepare/documents", "md5": "2.dir", "size": 1}
    lock(tmp_path, "books-prepare", deps=[{"path": "data/books", "md5": "1.dir", "size": 3}], outs=[made])
    if tokenized:
        lock(tmp_path, "books-bpe-300-tokenize", deps=[made | {"md5": "1.dir"}])
        documents = tmp_path / made["path"]
        cards.write(documents, evolve(cards.read(documents, DocumentsCard), documents={"train": 30, "heldout": 30}))
        assert main(["check", "small"]) == 0
        lock(tmp_path, "books-bpe-300-tokenize", deps=[made])
    assert main(["check", "small"]) == 1


def test_recipes_that_are_not_asked_for_are_planned_with_a_warning(tmp_path, monkeypatch, capsys):
    project(tmp_path, monkeypatch, 29, 10_000, prepared=29)
    (tmp_path / "data/books").mkdir(parents=True)
    (tmp_path / "data/books/one.txt").write_text("one")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes/small.py").write_text(RECIPE_FILE.replace("HELD_OUT", "0.1"))
    other = "from tiny_recipe import BASE\nfrom llmrecipe import Fraction, Recipe, evolve\n\n\ndef other() -> Recipe:\n"
    (tmp_path / "recipes/other.py").write_text(
        f"{other}    return Recipe(models=(evolve(BASE, name='other', text__heldout=Fraction(0.1)),))\n"
    )
    lines = (tmp_path / "dvc.yaml").read_text()
    (tmp_path / "dvc.yaml").write_text(lines.replace("small.py", "recipes/small.py"))
    assert main(["plan", "other"]) == 0
    assert "warning: small-release: gate.Recovery needs at least 30" in capsys.readouterr().err
    assert main(["plan", "small"]) == 1


def lock(folder, stage: str, **what) -> None:
    """Let DVC have noted something of a stage."""
    locked = yaml.safe_load((folder / "dvc.lock").read_text())
    locked["stages"][stage] |= what
    (folder / "dvc.lock").write_text(yaml.safe_dump(locked))


def test_thirty_are_enough(tmp_path, monkeypatch):
    train(tmp_path, monkeypatch, 30, 10_000)


def test_text_that_is_held_out_anew_is_prepared_whatever_tokens_there_are_of_before(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, 20, 10_000)
    # The user has done what the message says.
    planned = evolve(RELEASED, models=tuple(held_out_more(model) for model in RELEASED.models), release=None)
    more = evolve(planned, release=Release(candidates=planned.models, gates=RELEASED.release.gates))
    dvcfiles.write(plan([more]), tmp_path, references={"small": "small.py"})
    for stage in ("tiny-train", "tiny-w4a16-quantize"):
        run(tmp_path, monkeypatch, stage)


def test_models_are_compared_though_none_can_be_released(tmp_path, monkeypatch):
    project(tmp_path, monkeypatch, 20, 10_000)
    monkeypatch.setattr("llmrecipe.stages.runner._refuse_missing", lambda inputs: None)
    monkeypatch.setattr("llmrecipe.integrity.verify", lambda *paths, **options: None)
    run(tmp_path, monkeypatch, "small-report")


def held_out_more(model):
    return evolve(model, **{"text__heldout" if model == HELD_OUT else "model__text__heldout": Fraction(0.5)})


def train(folder, monkeypatch, held_out: int, max_tokens: int) -> None:
    """The stage that trains, but for the training, with so many held-out documents of 50 tokens."""
    project(folder, monkeypatch, held_out, max_tokens)
    run(folder, monkeypatch, "tiny-train")


def run(folder, monkeypatch, stage: str) -> None:
    """A stage, but for its work."""
    owner, _, kind = stage.rpartition("-")
    monkeypatch.setattr(f"llmrecipe.stages.{kind}.run", lambda context: None)
    monkeypatch.setattr("llmrecipe.stages.runner._refuse_missing", lambda inputs: None)
    monkeypatch.setattr("llmrecipe.stages.runner._states", lambda inputs: {})
    monkeypatch.setattr("llmrecipe.integrity.verify", lambda *paths, **options: None)
    run_stage(kind, name=stage, output=folder / f"artifacts/{owner}/{kind}", params=folder / f"params/{owner}.yaml")


def project(
    folder, monkeypatch, held_out: int, max_tokens: int, *, tokenized: bool = True, prepared: int | None = None
) -> None:
    """A project whose text was made documents by DVC, and tokens."""
    recipe = evolve(RELEASED, measures=(measure.Perplexity(max_tokens=max_tokens),))
    (folder / ".dvc").mkdir()
    monkeypatch.chdir(folder)
    pipeline, references = plan([recipe]), {"small": "small.py"}
    dvcfiles.write(pipeline, folder, references=references)
    stages = {stage.name: stage for stage in pipeline.stages}
    document = np.array([1] * 49 + [0])
    splits = {"train": [np.tile(document, 30)], "heldout": [np.tile(document, held_out)]}
    if tokenized:
        write_tokens(folder / stages["tiny-train"].inputs["tokens"], splits, vocab_size=300)
    if prepared is not None:
        documents = folder / stages["books-prepare"].product("documents")
        documents.mkdir(parents=True)
        counts = {"train": 30, "heldout": prepared}
        cards.write(documents, DocumentsCard(files={}, documents=counts, text_bytes=counts))
    _, sections = dvcfiles.entries(pipeline, folder, references)
    locked = {name: {"params": {f"params/{stages[name].owner}.yaml": {name: sections[name]}}} for name in stages}
    if not tokenized:
        del locked["books-bpe-300-tokenize"]
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))
