"""Files of questions: what is read of them, and what is wrong with them, with its place."""

import json

import pytest

from llmrecipe import Fraction, evolve, task
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.reading.readers import reader_of
from llmrecipe.errors import StageError

ASKED = task.QuestionAnswering(name="q", train="t.json")
OPEN = evolve(ASKED, unanswerable=True)

CONTEXT = "Ada met Grace in London, and Grace left London."


def question(own="a", text="London", start=17, **more):
    answers = [] if text is None else [{"text": text, "answer_start": start}]
    return {"id": own, "question": "Where?", "answers": answers} | more


def squad(*questions, context=CONTEXT):
    return {"data": [{"title": "Ada", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def row(text="London", start=17, **more):
    answers = {"text": [], "answer_start": []} if text is None else {"text": [text], "answer_start": [start]}
    return {"context": CONTEXT, "question": "Where?", "answers": answers} | more


def read(what, tmp_path, content, name="t.json"):
    path = tmp_path / name
    lines = content if isinstance(content, list) else [content]
    path.write_bytes(b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines))
    return reader_of(what).read(path, f"data/{name}")


def refusal(what, tmp_path, content, name="t.json"):
    with pytest.raises(StageError) as error:
        read(what, tmp_path, content, name)
    return str(error.value).splitlines()


def test_both_forms_give_the_same_questions(tmp_path):
    ((one,),) = read(ASKED, tmp_path, squad(question()))
    ((other,),) = read(ASKED, tmp_path, row(id="a"), "t.jsonl")
    expected = {"context": CONTEXT, "question": "Where?", "answers": {"text": ["London"], "answer_start": [17]}}
    assert one == other == expected | {"id": "a"}


def test_questions_without_an_answer_are_read_where_there_may_be_some(tmp_path):
    ((one, other),) = read(
        OPEN, tmp_path, squad(question(is_impossible=False), question("b", None, is_impossible=True))
    )
    assert (one["answers"]["text"], other["answers"]["text"]) == (["London"], [])
    (said,) = refusal(ASKED, tmp_path, squad(question(), question("b", None)))
    assert said == (
        "data/t.json, article 1 ('Ada'), paragraph 1, question b: has no answer; remove it, or say so of the task: "
        "unanswerable=True"
    )


def test_the_questions_of_an_article_or_a_context_stay_together(tmp_path):
    whole = squad(question(), question("b"))
    whole["data"][0]["paragraphs"] += [{"context": "In Rome.", "qas": [question("c", "Rome", 3)]}]
    whole["data"] += [{"title": "Ada", "paragraphs": [{"context": "In Rome.", "qas": [question("d", "Rome", 3)]}]}]
    assert [[each["id"] for each in group] for group in read(ASKED, tmp_path, whole)] == [["a", "b", "c"], ["d"]]
    lines = [row(id="a"), row(id="b", context="In London.", text="London", start=3), row(id="c")]
    lines[1]["answers"]["answer_start"] = [3]
    assert [[each["id"] for each in group] for group in read(ASKED, tmp_path, lines, "t.jsonl")] == [["a", "c"], ["b"]]
    titled = [each | {"title": "Ada"} for each in lines]
    assert len(read(ASKED, tmp_path, titled, "t.jsonl")) == 1


def test_shares_take_whole_articles(tmp_path):
    whole = {
        "data": [squad(question(f"{one}{two}"), question(f"{one}{two}x"))["data"][0] for one in "ab" for two in "cd"]
    }
    splits = examples.divided(
        evolve(ASKED, validation=Fraction(0.25), test=Fraction(0.25)), {"train": read(ASKED, tmp_path, whole)}
    )
    articles = [{each["id"].partition(":")[2][:2] for each in rows} for rows in splits.values()]
    assert list(map(len, articles)) == [2, 1, 1]
    assert len(set.union(*articles)) == 4


def test_everything_that_is_wrong_with_a_file_of_squad_is_said_with_its_place(tmp_path):
    wrong = squad(
        question("a", "London", 16),
        question("b", "London", 38),
        question("c", "Paris", 17),
        question("a"),
        question("d", " ", 3),
        question("e", "Ada", -1),
        question("f", "Ada", True),
        question("g", question=""),
        question("h", answers="London"),
        question("i", answers=[{"text": "London", "answer_start": 17}, {"text": "Grace", "answer_start": 9}]),
        question("j", is_impossible=True),
        question("k", None, is_impossible=False),
    )
    wrong["data"][0]["paragraphs"][0]["qas"].append({"question": "Where?", "answers": []})
    place = "data/t.json, article 1 ('Ada'), paragraph 1, question "
    lines = [line.removeprefix(place) for line in refusal(OPEN, tmp_path, wrong)]
    assert lines == [
        "a: answer 1, 'London', isn't in its context at answer_start = 16; it is at 17",
        "b: answer 1, 'London', isn't in its context at answer_start = 38; it is at 40",
        "c: answer 1, 'Paris', isn't in its context at answer_start = 17; it is nowhere in it",
        "a: the id 'a' is that of article 1 ('Ada'), paragraph 1, question a as well",
        "d: answer 1 must be a text that isn't empty, got ' '",
        "e: answer 1, 'Ada', begins at answer_start = -1, which is no place; count from 0",
        "f: answer 1, 'Ada', begins at answer_start = True, which is no place; count from 0",
        "g: 'question' must be a text that isn't empty, got ''",
        "h: 'answers' must be a list of objects, got 'London'",
        "i: answer 2, 'Grace', isn't in its context at answer_start = 9; it is at 8",
        "j: has answers, and is_impossible is true; remove one of both",
        "k: has no answers, and is_impossible is false; say true, or add one",
        "13: has no 'id'; it has 'question', 'answers'",
    ]


def test_everything_that_is_wrong_with_json_lines_is_said_with_its_line(tmp_path):
    rows = [
        row(),
        row(start=5),
        row(context=""),
        {"context": CONTEXT, "question": "Where?"},
        row(answers={"text": ["a"]}),
        row(answers={"text": ["a"], "answer_start": []}),
        row(id="x"),
        row(id="x"),
        b"{",
    ]
    assert refusal(ASKED, tmp_path, rows, "t.jsonl")[:8] == [
        "data/t.jsonl, line 2: answer 1, 'London', isn't in its context at answer_start = 5; it is at 17",
        "data/t.jsonl, line 3: 'context' must be a text that isn't empty, got ''",
        "data/t.jsonl, line 4: has no 'answers'; it has 'context', 'question'",
        "data/t.jsonl, line 5: 'answers' must be {\"text\": […], \"answer_start\": […]}, got {'text': ['a']}",
        "data/t.jsonl, line 6: 1 texts in 'answers', and 0 of answer_start",
        "data/t.jsonl, line 8: the id 'x' is that of line 7 as well",
        "data/t.jsonl, line 9: is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
    ]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ({"data": []}, "t.json", "holds no question"),
        ({"rows": []}, "t.json", "the whole: has no 'data'; it has 'rows'"),
        ([row(), row()], "t.json", "a file of a question a line ends in '.jsonl'"),
        ([[1]], "t.json", "is no file of SQuAD"),
        (b"\xff", "t.json", "is no UTF-8"),
        (b'{"data": "\\ud800"}', "t.json", "half of a surrogate pair"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, "t.json", "article 1, paragraph 1: has no 'qas'"),
        ({"data": [{"title": "A"}]}, "t.json", "article 1 ('A'): has no 'paragraphs'"),
        (b"", "t.jsonl", "holds no question"),
    ],
    ids=str,
)
def test_what_a_file_lacks_is_said(tmp_path, content, name, said):
    assert said in refusal(ASKED, tmp_path, content, name)[-1]


def test_keys_of_json_lines_are_as_they_are_called(tmp_path):
    what = evolve(ASKED, context_field="text", question_field="asked", answers_field="said")
    line = {"text": "In Rome.", "asked": "Where?", "said": {"text": ["Rome"], "answer_start": [3]}}
    ((found,),) = read(what, tmp_path, line, "t.jsonl")
    assert (found["id"], found["context"], found["answers"]["text"]) == ("1", "In Rome.", ["Rome"])


def test_a_split_without_answers_or_with_nothing_else_is_refused():
    none, one = {"answers": {"text": []}}, {"answers": {"text": ["a"]}}
    assert reader_of(OPEN).labels_of({"train": [none, one], "test": [one, none]}) == []
    assert reader_of(OPEN).counted([none, one, one]) == {"answerable": 2, "unanswerable": 1}
    with pytest.raises(StageError, match=r"q\.train: no question has an answer, there is nothing to learn"):
        reader_of(OPEN).labels_of({"train": [none]})
    with pytest.raises(StageError, match=r"q\.test: no question has an answer, so it says nothing"):
        reader_of(OPEN).labels_of({"train": [none, one], "test": [none]})
    assert reader_of(OPEN).labels_of({"train": [none, one], "test": [one]}) == []
    with pytest.raises(StageError, match=r"q\.train: unanswerable is True, and every question has an answer"):
        reader_of(OPEN).labels_of({"train": [one]})
