"""What is measured on isn't learned from in another corpus, as far as sources tell."""

import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import Corpus, Distilled, Fraction, Mixture, Part, Quantized, clean, evolve, measure, scheme, source
from llmrecipe.recipe import checks

PAGES = source.JsonlFiles(paths=("pages/*.jsonl",))
TEST = source.JsonlFiles(paths=("test.jsonl",))
WEB = Corpus(name="web", source=PAGES, heldout=Fraction(0.25))
BOOKS = Corpus(name="books", source=source.TextFiles(paths=("books/*.txt",)))
TAUGHT = Distilled(
    name="taught", student=SMALL_MODEL.start, teacher=SMALL_MODEL, training=SMALL_MODEL.training, text=WEB
)
SPLIT_ELSE = (
    "both have one source and don't split it alike, so documents that are held out of the one are learned from in the "
    "other; give both the same heldout and the same cleaners that change texts, or use one corpus for both"
)


def found(model, text) -> dict[str, str]:
    """What is wrong with measuring a model on a text, by path below the recipe."""
    asked = evolve(SMALL, models=(model,), measures=(measure.Perplexity(text=text),))
    return {each.path.removeprefix("small."): each.reason for each in checks.violations(asked)}


def mixed(*corpora: Corpus) -> Mixture:
    return Mixture(parts=tuple(Part(corpus=each) for each in corpora))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shards": 7},
        {"clean": (clean.ExactDedup(),)},
        {"clean": (clean.GopherQuality(), clean.MinHashDedup(), clean.SentenceDedup(), clean.ExactDedup())},
    ],
    ids=["nothing", "shards", "equals", "what is dropped and compared"],
)
def test_corpora_of_one_source_that_split_it_alike_are_apart(changes):
    assert found(TAUGHT, evolve(WEB, name="other", **changes)) == {}


@pytest.mark.parametrize(
    "changes",
    [{"heldout": Fraction(0.2)}, {"clean": (clean.FixUnicode(),)}, {"heldout": TEST}],
    ids=["share", "text", "source"],
)
def test_corpora_that_split_one_source_otherwise_are_refused(changes):
    other = evolve(WEB, name="other", **changes)
    assert found(evolve(TAUGHT, text=other), WEB) == {
        "measures[0]": f"reads web, and taught learns from other: {SPLIT_ELSE}"
    }
    # Of a mixture as well, and of what only calibrates.
    rounded = Quantized(model=SMALL_MODEL, scheme=scheme.W4A16(group_size=32), text=mixed(BOOKS, other))
    assert found(rounded, mixed(WEB, BOOKS)) == {
        "measures[0]": f"reads web, and {rounded.name} learns from other: {SPLIT_ELSE}"
    }


def test_a_larger_share_that_is_held_out_has_a_smaller_one_in_it():
    less = evolve(WEB, name="less", heldout=Fraction(0.1))
    assert found(TAUGHT, less) == {}
    assert list(found(evolve(TAUGHT, text=less), WEB)) == ["measures[0]"]
    assert list(found(TAUGHT, evolve(less, clean=(clean.FixUnicode(),)))) == ["measures[0]"]


def test_text_that_was_compared_with_what_is_held_out_is_apart_from_it():
    held = Corpus(name="held", source=BOOKS.source, heldout=PAGES)
    compared = evolve(WEB, clean=(clean.Decontaminate(against=(PAGES,)),))
    assert found(evolve(TAUGHT, text=compared), held) == {}
    assert list(found(evolve(TAUGHT, text=evolve(WEB, clean=(clean.Decontaminate(against=(TEST,)),))), held)) == [
        "measures[0]"
    ]


def test_a_source_that_is_held_out_is_not_learned_from():
    held = Corpus(name="held", source=BOOKS.source, heldout=PAGES)
    assert found(TAUGHT, held) == {
        "measures[0]": "reads held, and taught learns from web: the source of web is what held holds out; leave it out "
        "of what is learned from"
    }
    # What it holds out itself, and what another holds out too, is fine.
    assert found(evolve(TAUGHT, text=held), held) == {}
    assert found(evolve(TAUGHT, text=evolve(WEB, heldout=TEST)), evolve(held, heldout=TEST)) == {}
