"""Files of examples: what is read of them, and what is wrong with them, all said at once."""

import json
import re

import pytest
import tiny_tasks
from hypothesis import given
from hypothesis import strategies as st

from llmrecipe import Fraction, evolve, task
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.reading.readers import reader_of
from llmrecipe.errors import StageError

NAMES = task.NamedEntities(name="n", train="t.conll")
TEXTS = task.Classification(name="c", train="t.csv")
PAIRS = task.Embeddings(name="p", train="t.csv")
HARD = evolve(PAIRS, negative_field="other")


def read(what, tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return reader_of(what).read(path, f"data/{name}")


def refusal(what, tmp_path, content, name):
    with pytest.raises(StageError) as error:
        read(what, tmp_path, content, name)
    return str(error.value).splitlines()


def test_sentences_are_separated_by_blank_lines_and_the_tag_is_the_last_column(tmp_path):
    found = read(NAMES, tmp_path, "EU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n \nGerman JJ I-NP I-MISC\n", "t.txt")
    assert found == [
        [{"id": "1", "words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}],
        [{"id": "5", "words": ["German"], "tags": ["B-MISC"]}],
    ]


def test_sentences_of_a_document_stay_together(tmp_path):
    (first, second) = read(NAMES, tmp_path, tiny_tasks.conll(5, document=3), "t.conll")
    assert [len(first), len(second)] == [3, 2]
    assert len({sentence["document"] for sentence in first}) == 1
    assert first[0]["document"] != second[0]["document"]


def test_quotes_are_signs_where_tabs_separate_and_words_may_hold_spaces(tmp_path):
    ((row,),) = read(TEXTS, tmp_path, 'text\tlabel\n"good" film\tpos\n', "t.tsv")
    assert row["text"] == '"good" film'
    ((sentence,),) = read(NAMES, tmp_path, "10 000\tB-NUM\nNew\u00a0York\tB-LOC\n", "t.conll")
    assert sentence["words"] == ["10 000", "New\u00a0York"]


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_words(tmp_path):
    ((sentence,),) = read(NAMES, tmp_path, b"\xef\xbb\xbfAda B-PER\r\n\r\n", "t.conll")
    assert sentence["words"] == ["Ada"]


def test_everything_that_is_wrong_with_sentences_is_said_with_its_line(tmp_path):
    lines = refusal(NAMES, tmp_path, "Ada B-PER\nLovelace\n\nLondon LOC\nand O\n", "t.conll")
    assert lines == [
        "data/t.conll, line 2: 'Lovelace' has no tag; a line holds a word and, in its last column, its tag",
        "data/t.conll, line 4: the sentence that begins here: 'LOC' is no tag of IOB, IOB2 or IOBES (BILOU); write 'O',"
        " or 'B-' or 'I-' before the type, as in 'B-PER'",
    ]


def test_everything_that_is_wrong_with_json_sentences_is_said_with_its_line(tmp_path):
    rows = [
        {"tokens": ["a", "b"], "tags": ["O"]},
        {"tokens": ["a"], "labels": ["O"]},
        {"tokens": [], "tags": []},
        {"tokens": ["a", " "], "tags": ["O", "O"]},
        {"tokens": "a b", "tags": ["O", "O"]},
    ]
    content = "\n".join([*map(json.dumps, rows), "[1]", "{"])
    lines = refusal(NAMES, tmp_path, content, "t.jsonl")
    assert sorted(number for line in lines for number in re.findall(r"\d", line.split(": ")[0])) == list("1234567")
    assert lines[0].endswith("2 words in 'tokens', and 1 tags in 'tags'")
    assert lines[1].endswith("has no 'tags'; it has 'tokens', 'labels'")


def test_a_table_and_json_lines_give_the_same_texts(tmp_path):
    table = read(TEXTS, tmp_path, 'text,label\n"a, b",good\nc,bad\n', "t.csv")
    tabs = read(TEXTS, tmp_path, "label\ttext\ngood\ta, b\nbad\tc\n", "t.tsv")
    lines = read(TEXTS, tmp_path, '{"text": "a, b", "label": "good"}\n{"text": "c", "label": "bad"}\n', "t.jsonl")
    texts = [[{key: row[key] for key in ("text", "label")} for (row,) in found] for found in (table, tabs, lines)]
    assert texts[0] == texts[1] == texts[2] == [{"text": "a, b", "label": "good"}, {"text": "c", "label": "bad"}]


def test_labels_that_are_numbers_or_truths_are_labels(tmp_path):
    found = read(TEXTS, tmp_path, '{"text": "a", "label": 1}\n{"text": "b", "label": true}\n', "t.jsonl")
    assert [row["label"] for (row,) in found] == ["1", "true"]


def test_several_labels_and_scores_are_read_from_both(tmp_path):
    several, score = evolve(TEXTS, answer="several"), evolve(TEXTS, answer="score")
    assert [row["labels"] for (row,) in read(several, tmp_path, "text,label\na,x|y\nb,\n", "t.csv")] == [["x", "y"], []]
    assert [row["labels"] for (row,) in read(several, tmp_path, '{"text": "a", "label": ["y", "x"]}', "t.jsonl")] == [
        ["x", "y"]
    ]
    assert [row["score"] for (row,) in read(score, tmp_path, "text,label\na,1.5\nb,-2\n", "t.csv")] == [1.5, -2.0]


@pytest.mark.parametrize(
    ("what", "content", "name", "said"),
    [
        (TEXTS, "text,label\n,good\n", "t.csv", "'text' must be a text that isn't empty, got ''"),
        (TEXTS, "text,label\na,\n", "t.csv", "'label' is empty; give every text its label"),
        (TEXTS, "text,tone\na,good\n", "t.csv", "has no 'label'; it has 'text', 'tone'"),
        (TEXTS, "text,label\na,b,c\n", "t.csv", "has another number of columns than the header, which has 2"),
        (TEXTS, '{"text": "a", "label": ["x"]}', "t.jsonl", "use answer='several' for lists"),
        (evolve(TEXTS, answer="score"), '{"text": "a", "label": 1' + "0" * 400 + "}", "t.jsonl", "must be a number"),
        (evolve(TEXTS, answer="several"), '{"text": "a", "label": [""]}', "t.jsonl", "'label' is empty"),
        (evolve(TEXTS, answer="several"), '{"text": "a", "label": [null]}', "t.jsonl", "must be a label, got None"),
        (TEXTS, '{"text": "\\ud800", "label": "a"}', "t.jsonl", "half of a surrogate pair"),
        (TEXTS, 'text,label\n"a"b,c\nd,e\n', "t.csv", "line 2"),
        (evolve(TEXTS, answer="score"), "text,label\na,high\n", "t.csv", "'label' must be a number, got 'high'"),
        (evolve(TEXTS, answer="score"), "text,label\na,nan\n", "t.csv", "'label' must be a number, got 'nan'"),
        (evolve(TEXTS, answer="several"), '{"text": "a", "label": 3}', "t.jsonl", "must be a list of labels, got 3"),
        (TEXTS, "text,label\n", "t.csv", "holds no text"),
        (TEXTS, "a", "t.xlsx", "is none of '.jsonl', '.csv', '.tsv', '.tab'"),
        (TEXTS, b"text,label\n\xff,good\n", "t.csv", "is no UTF-8"),
        (NAMES, "\n\n", "t.conll", "holds no sentence"),
        (PAIRS, "query,positive\n,a\n", "t.csv", "'query' must be a text that isn't empty, got ''"),
        (PAIRS, "query,positive\na, \n", "t.csv", "'positive' must be a text that isn't empty, got ' '"),
        (PAIRS, "query,text\na,b\n", "t.csv", "has no 'positive'; it has 'query', 'text'"),
        (PAIRS, "query,positive\n", "t.csv", "holds no pair"),
        (HARD, "query,positive,other\na,b,b\n", "t.csv", "'other' is 'positive' again; give another text"),
    ],
)
def test_what_a_file_lacks_is_said(tmp_path, what, content, name, said):
    assert said in refusal(what, tmp_path, content, name)[-1]


def test_no_more_is_said_of_a_file_than_helps(tmp_path):
    lines = refusal(NAMES, tmp_path, "".join(f"word{number}\n" for number in range(50)), "t.conll")
    assert len(lines) == 21
    assert lines[-1] == "and 30 more in data/t.conll"


def test_what_is_wrong_with_many_lines_is_said_once(tmp_path):
    assert refusal(TEXTS, tmp_path, "text,tone\n" + "a,good\n" * 8, "t.csv") == [
        "data/t.csv, lines 2, 3, 4, 5, 6 and 3 more: has no 'label'; it has 'text', 'tone'"
    ]
    assert refusal(TEXTS, tmp_path, "text,label\n,b\na,\n,b\n", "t.csv") == [
        "data/t.csv, lines 2, 4: 'text' must be a text that isn't empty, got ''",
        "data/t.csv, line 3: 'label' is empty; give every text its label",
    ]


def splits_of(what, count):
    return examples.divided(what, {"train": [[{"id": str(index), "text": str(index)}] for index in range(count)]})


@given(st.integers(5, 60), st.integers(0, 9), st.floats(0.1, 0.4), st.floats(0.1, 0.4))
def test_shares_are_taken_once_and_in_order(count, seed, validation, test):
    what = evolve(TEXTS, seed=seed, validation=Fraction(validation), test=Fraction(test))
    found = splits_of(what, count) if round(validation * count) and round(test * count) else None
    if found is None:
        return
    assert [len(found["validation"]), len(found["test"])] == [round(validation * count), round(test * count)]
    every = [int(row["id"].partition(":")[2]) for split in found.values() for row in split]
    assert sorted(every) == list(range(count))
    for split in found.values():
        assert [int(row["id"].partition(":")[2]) for row in split] == sorted(
            int(row["id"].partition(":")[2]) for row in split
        )
    assert found == splits_of(what, count)


def test_too_few_examples_for_a_share_are_refused():
    with pytest.raises(StageError, match=r"c\.validation: no example of 3 is left for it"):
        splits_of(TEXTS, 3)


def test_a_label_that_is_in_no_training_example_is_refused():
    splits = {split: [{"id": "1", "label": label}] for split, label in (("train", "a"), ("validation", "b"))}
    splits["train"].append({"id": "2", "label": "c"})
    with pytest.raises(StageError, match=r"c\.validation: 'b' is the label of 1 examples, and of none"):
        reader_of(TEXTS).labels_of(splits)


@pytest.mark.parametrize(
    ("what", "rows", "said"),
    [
        (TEXTS, [{"label": "a"}, {"label": "a"}], "every text has the label 'a'"),
        (evolve(TEXTS, answer="several"), [{"labels": []}], "no text has a label"),
        (NAMES, [{"tags": ["O"]}], r"n\.train: no word has another tag than O, there is nothing to learn"),
    ],
)
def test_examples_with_nothing_to_tell_apart_are_refused(what, rows, said):
    with pytest.raises(StageError, match=said):
        reader_of(what).labels_of({"train": rows})


def test_pairs_of_a_query_stay_together_and_have_a_negative_where_one_is_named(tmp_path):
    content = "query,positive,other\na,b,n\nc,d,n\na,e,n\n"
    assert read(HARD, tmp_path, content, "t.csv") == [
        [
            {"id": "2", "query": "a", "positive": "b", "negative": "n"},
            {"id": "4", "query": "a", "positive": "e", "negative": "n"},
        ],
        [{"id": "3", "query": "c", "positive": "d", "negative": "n"}],
    ]
    assert all("negative" not in row for group in read(PAIRS, tmp_path, content, "t.csv") for row in group)


def test_pairs_with_one_positive_are_refused_unless_they_are_learned_with_negatives():
    rows = [{"query": "a", "positive": "x"}, {"query": "b", "positive": "x"}]
    more = [{"query": "a", "positive": "x"}, {"query": "b", "positive": "y"}]
    with pytest.raises(StageError, match=r"p\.train: every pair has the positive 'x', and there is nothing to tell"):
        reader_of(PAIRS).labels_of({"train": rows})
    with pytest.raises(StageError, match=r"p\.test: every pair has the positive 'x'"):
        reader_of(HARD).labels_of({"train": rows, "test": rows})
    assert reader_of(HARD).labels_of({"train": rows, "test": more}) == []


def test_pairs_that_are_there_twice_are_counted_and_said(caplog):
    rows = [{"query": "a", "positive": "x"}] * 3 + [{"query": "a", "positive": "y"}]
    assert reader_of(PAIRS).counted(rows) == {"queries": 1, "positives": 2, "repeated": 2}
    reader_of(PAIRS).labels_of({"train": rows})
    assert "2 of 4 train pairs are there already" in caplog.text


def test_a_split_without_names_says_nothing():
    splits = {"train": [{"tags": ["B-A"]}], "validation": [{"tags": ["O"]}]}
    with pytest.raises(StageError, match=r"n\.validation: no word has another tag than O, so it says nothing"):
        reader_of(NAMES).labels_of(splits)


def test_examples_that_say_what_a_training_example_says_are_counted():
    splits = {
        "train": [{"id": "1", "text": "a"}],
        "validation": [{"id": "2", "text": "a"}, {"id": "3", "text": "b"}],
        "test": [{"id": "4", "text": "b"}],
    }
    assert examples.in_training_too(splits, reader_of(TEXTS).asked) == {"validation": 1, "test": 0}
