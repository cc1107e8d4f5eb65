"""What a tagger reads: windows with every word once, its context, and how it is written."""

import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrecipe import task
from llmrecipe.cards import TaskCard
from llmrecipe.engines.tasks.items import UNLABELLED
from llmrecipe.engines.tasks.named_entities import NamedEntitiesWork, case_of

LABELS = ("O", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_model.write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


class Framed:
    """A tokenizer that puts a token before each text and one behind it, as BERT's."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.pad_token_id, self.eos_token_id, self.unk_token_id = 7, None, None

    def __call__(self, text, **options):
        return {"input_ids": [1, 2]} if text == "" else self._tokenizer(text, **options)


def work(tokenizer, **changes):
    what = task.NamedEntities(name="n", train="n.conll", **{"max_length": 16} | changes)
    return NamedEntitiesWork(TaskCard(task=what, labels=LABELS), tokenizer)


def example(words, document=None):
    tags = ["B-PER" if word[0].isupper() else "O" for word in words]
    return {"id": "1", "words": words, "tags": tags} | ({} if document is None else {"document": document})


WORDS = st.lists(st.sampled_from(["a", "Ada", "argument", "0xFFFFFFFFFFFFFFFF"]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(0, 1)), min_size=1, max_size=8))
def test_every_word_is_predicted_once_at_its_first_token(tokenizer, sentences):
    rows = [example(words, document) for words, document in sorted(sentences, key=lambda each: each[1])]
    items, _ = work(Framed(tokenizer)).items(rows)
    places = [(each, word) for item in items for _, each, word in item.places]
    assert places == [(each, word) for each, row in enumerate(rows) for word in range(len(row["words"]))]
    for item in items:
        assert item.length <= 16
        assert (item.input_ids[0], item.input_ids[-1]) == (1, 2)
        labelled = [place for place, label in enumerate(item.labels) if label != UNLABELLED]
        assert labelled == [place for place, *_ in item.places]
        for place, each, word in item.places:
            first = tokenizer(" " * (word > 0) + rows[each]["words"][word])
            assert item.input_ids[place] == first["input_ids"][0]
            assert LABELS[item.labels[place]] == rows[each]["tags"][word]
        assert len({rows[each].get("document") for _, each, _ in item.places}) == 1


def test_sentences_of_a_document_are_read_together_and_others_by_themselves(tokenizer):
    words = ["a", "b"]
    together, _ = work(tokenizer, max_length=64).items([example(words, 1), example(words, 1), example(words, 2)])
    assert [[each for _, each, _ in item.places] for item in together] == [[0, 0, 1, 1], [2, 2]]
    alone, _ = work(tokenizer, max_length=64).items([example(words), example(words)])
    assert len(alone) == 2


def test_a_sentence_that_is_too_long_is_cut_and_counted(tokenizer):
    items, cut = work(tokenizer, max_length=8).items([example(["a"] * 20), example(["a"])])
    assert (cut, len(items)) == (1, 4)


@pytest.mark.parametrize(
    ("word", "case"),
    [("word", 0), ("7", 0), ("…", 0), ("Word", 1), ("A", 1), ("U.N.", 2), ("WORD", 2), ("woRd", 3), ("McCoy", 3)],
)
def test_how_a_word_is_written_is_its_token_type(word, case):
    assert case_of(word) == case


def test_each_token_of_a_word_says_how_that_is_written(tokenizer):
    (item,), _ = work(Framed(tokenizer), case_as_token_types=True, max_length=64).items([example(["Argument", "a"])])
    first, second = (place for place, *_ in item.places)
    assert item.token_types == [0, *[1] * (second - first), 0, 0]


def test_words_are_read_as_they_are_in_a_text(tokenizer):
    """A byte-level tokenizer has other tokens for a word behind a space."""
    (item,), _ = work(tokenizer, max_length=64).items([example(["the", "argument", "Action"])])
    assert item.input_ids == tokenizer("the argument Action")["input_ids"]
    starts = [place for place, *_ in item.places]
    assert [
        tokenizer.decode(item.input_ids[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)
    ] == [
        "the",
        " argument",
        " Action",
    ]


def test_a_word_that_looks_like_a_special_token_is_none(tokenizer):
    (item,), _ = work(tokenizer, max_length=64).items([example([tiny_model.END_OF_TEXT])])
    assert tokenizer.eos_token_id not in item.input_ids
    assert tokenizer.decode(item.input_ids) == tiny_model.END_OF_TEXT


def test_a_word_that_a_tokenizer_leaves_out_is_predicted_all_the_same(tokenizer):
    class Deaf(Framed):
        """It hears nothing of a word that is a space of no width."""

        def __call__(self, text, **options):
            if text == "":
                return super().__call__(text)
            found = self._tokenizer(text, **options)
            for index, row in enumerate(text):
                kept = [
                    pair
                    for pair in zip(found["input_ids"][index], found["offset_mapping"][index], strict=True)
                    if pair[1][1] <= row.index("\u200b") - 1
                ]
                found["input_ids"][index], found["offset_mapping"][index] = map(list, zip(*kept, strict=True))
            return found

    (item,), _ = work(Deaf(tokenizer), max_length=64).items([{"id": "1", "words": ["a", "\u200b"], "tags": ["O", "O"]}])
    assert [word for *_, word in item.places] == [0, 1]
    assert item.input_ids[item.places[1][0]] == 7


def test_no_words_are_no_items_and_have_no_tags(tokenizer):
    assert work(tokenizer).items([]) == ([], 0)
    assert work(tokenizer).items([{"words": []}]) == ([], 0)
    assert work(tokenizer).tags_of([{"words": []}], {}) == [[]]
