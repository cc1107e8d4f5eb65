"""Entities by their tags, as seqeval finds them, and the likeliest allowed tags, as trying all finds them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOBES, Entities

from llmrecipe.engines.tasks import tags
from llmrecipe.engines.tasks.viterbi import likeliest, may_follow

KINDS = ("PER", "LOC")

any_iob = st.lists(st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in KINDS)]), max_size=8)


@st.composite
def sentences(draw):
    """Entities that follow each other, and how many words a sentence has."""
    found, place = [], 0
    for _ in range(draw(st.integers(0, 4))):
        place += draw(st.integers(0, 2))
        end = place + draw(st.integers(1, 3))
        found.append(tags.Entity(draw(st.sampled_from(KINDS)), place, end))
        place = end
    return found, place + draw(st.integers(0, 2))


def written(entities, count, begin, inside, end, single, *, only_where_needed=False):
    """The tags of a scheme, by its letters."""
    made = ["O"] * count
    for index, entity in enumerate(entities):
        before = entities[index - 1] if index else None
        touches = before is not None and before.end == entity.first and before.kind == entity.kind
        for place in range(entity.first, entity.end):
            letter = inside
            if place == entity.first and (touches or not only_where_needed):
                letter = begin
            if place == entity.end - 1:
                letter = end or letter
            if entity.end - entity.first == 1:
                letter = single or letter
            made[place] = f"{letter}-{entity.kind}"
    return made


SCHEMES = {
    "IOB1": {"begin": "B", "inside": "I", "end": "", "single": "", "only_where_needed": True},
    "IOB2": {"begin": "B", "inside": "I", "end": "", "single": ""},
    "IOBES": {"begin": "B", "inside": "I", "end": "E", "single": "S"},
    "BILOU": {"begin": "B", "inside": "I", "end": "L", "single": "U"},
}


@pytest.mark.parametrize("scheme", SCHEMES)
@given(sentence=sentences())
def test_every_scheme_says_the_same_entities(scheme, sentence):
    entities, count = sentence
    made = written(entities, count, **SCHEMES[scheme])
    assert tags.entities(made) == entities
    assert tags.iob2(made) == written(entities, count, **SCHEMES["IOB2"])


@given(any_iob)
def test_entities_are_those_of_seqeval_whatever_the_tags(given_tags):
    expected = [(kind, first, last + 1) for kind, first, last in get_entities(given_tags)]
    assert [tuple(entity) for entity in tags.entities(given_tags)] == expected


@given(sentences())
def test_schemes_are_read_as_seqeval_reads_them(sentence):
    entities, count = sentence
    for name, scheme in (("IOB1", IOB1), ("IOBES", IOBES)):
        made = written(entities, count, **SCHEMES[name])
        (known,) = Entities([made], scheme).entities
        assert [(each.tag, each.start, each.end) for each in known] == [tuple(each) for each in entities]


@pytest.mark.parametrize("tag", ["B-PER", "I-a-b", "O", "U-X", "L-X", "S-X", "E-X"])
def test_tags_of_known_schemes_are_taken(tag):
    assert tags.fault(tag) is None


@pytest.mark.parametrize("tag", ["PER", "B", "B-", "Q-PER", "-PER", "", 3, None])
def test_other_tags_are_refused_with_what_would_do(tag):
    assert repr(tag) in tags.fault(tag)


LABELS = tags.labels_of(KINDS)


def test_labels_begin_with_outside():
    assert LABELS == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@given(st.integers(1, 4), st.integers(0, 10_000))
def test_the_likeliest_allowed_tags_are_found(count, seed):
    logs = np.random.default_rng(seed).normal(size=(count, len(LABELS)))
    allowed = [
        path
        for path in itertools.product(range(len(LABELS)), repeat=count)
        if all(
            may_follow(LABELS[before] if before is not None else None, LABELS[tag])
            for before, tag in zip((None, *path), path, strict=False)
        )
    ]
    best = max(allowed, key=lambda path: sum(logs[word, tag] for word, tag in enumerate(path)))
    assert likeliest(logs, LABELS) == list(best)


@given(st.integers(1, 6), st.integers(0, 10_000))
def test_what_is_found_is_iob2_already(count, seed):
    path = likeliest(np.random.default_rng(seed).normal(size=(count, len(LABELS))), LABELS)
    made = [LABELS[tag] for tag in path]
    assert tags.iob2(made) == made
