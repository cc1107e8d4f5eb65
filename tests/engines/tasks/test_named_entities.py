"""What a tagger reads: windows with every word once, its context, and how it is written."""

import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

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
    return NamedEntitiesWork(TaskCard(task="named_entities", labels=LABELS, **{"max_length": 16} | changes), tokenizer)


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
            first = tokenizer([[rows[each]["words"][word]]], is_split_into_words=True, add_special_tokens=False)
            assert item.input_ids[place] == first["input_ids"][0][0]
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


def test_a_word_that_a_tokenizer_leaves_out_is_predicted_all_the_same(tokenizer):
    class Deaf(Framed):
        def __call__(self, text, **options):
            if text == "":
                return super().__call__(text)
            found = self._tokenizer([[word for word in row if word != "\u200b"] for row in text], **options)
            kept = [[index for index, word in enumerate(row) if word != "\u200b"] for row in text]

            class Encoded(dict):
                def word_ids(self, index):
                    return [kept[index][word] for word in found.word_ids(index)]

            return Encoded(found)

    (item,), _ = work(Deaf(tokenizer), max_length=64).items([{"id": "1", "words": ["a", "\u200b"], "tags": ["O", "O"]}])
    assert [word for *_, word in item.places] == [0, 1]
    assert item.input_ids[item.places[1][0]] == 7
