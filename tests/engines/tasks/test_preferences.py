"""Pairs of answers: their files, what of them is learned, the loss beside the start, which answer is likelier."""

import json
import math

import pytest
import tiny_model
import tiny_tasks
import torch
from torch.nn import functional
from transformers import AutoTokenizer

from llmrecipe import evolve
from llmrecipe.engines.tasks.heads import card_of
from llmrecipe.engines.tasks.items import UNLABELLED
from llmrecipe.engines.tasks.preferences import Held, PreferencesWork
from llmrecipe.engines.tasks.reading.readers import reader_of
from llmrecipe.engines.tasks.work import inputs
from llmrecipe.errors import StageError

CHOICES = tiny_tasks.CHOICES

USER, SAYS = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}

RIGHT = {"messages": [USER], "chosen": "hello", "rejected": "go away"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_model.write_tokenizer(directory)
    return directory


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model():
    return tiny_model.new_model().eval()


@pytest.fixture(scope="module")
def moved():
    """The same network with other weights."""
    made = tiny_model.new_model()
    torch.manual_seed(1)
    for weight in made.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return made.eval()


def work(tokenizer, what=CHOICES):
    return PreferencesWork(card_of(what, (), tiny_model.NETWORK), tokenizer)


def examples(count=12):
    return [row | {"id": f"train:{number}"} for number, row in enumerate(tiny_tasks.choices(count), 1)]


def read(tmp_path, *rows, what=CHOICES):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return reader_of(what).read(path, "pairs.jsonl")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"messages": None}, "has no 'messages'; it has 'messages', 'chosen', 'rejected'"),
        ({"chosen": None}, "has no 'chosen'"),
        ({"rejected": " "}, "'rejected' must be a text that isn't empty, got ' '"),
        ({"rejected": [SAYS]}, "'rejected' must be a text"),
        ({"rejected": " hello\n"}, "'chosen' and 'rejected' are the same text, of which neither is preferred"),
        ({"messages": "hi"}, "'messages' must be a list of objects"),
        ({"messages": [USER, SAYS]}, "ends with an answer; the last message must be the user's"),
        ({"messages": [{"role": "system", "content": "be brief"}]}, "has no question: no message is the user's"),
        ({"messages": [USER, USER]}, "message 2 is the user's, where the assistant has a turn"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_line(tmp_path, changes, said):
    with pytest.raises(StageError) as error:
        read(tmp_path, RIGHT, RIGHT | changes)
    (line,) = str(error.value).splitlines()
    assert line.startswith("pairs.jsonl, line 2: ")
    assert said in line


def test_an_empty_file_of_pairs_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"^pairs.jsonl: holds no pair$"):
        read(tmp_path)


def test_pairs_of_the_same_chat_stay_together(tmp_path):
    what = evolve(CHOICES, messages_field="prompt", chosen_field="good", rejected_field="bad")
    other = {"prompt": [USER, SAYS, USER], "good": "a", "bad": "b"}
    again = {"prompt": [USER | {"weight": 1}], "good": "hello", "bad": "what"}
    first = {"prompt": [USER], "good": "hello", "bad": "go away"}
    assert read(tmp_path, first, other, again, what=what) == [
        [RIGHT | {"id": "1"}, {"id": "3", "messages": [USER], "chosen": "hello", "rejected": "what"}],
        [{"id": "2", "messages": [USER, SAYS, USER], "chosen": "a", "rejected": "b"}],
    ]


def test_it_is_counted_which_answers_are_longer():
    rows = [{"chosen": "abc", "rejected": "a"}, {"chosen": "a", "rejected": "ab"}, {"chosen": "a", "rejected": "b"}]
    assert reader_of(CHOICES).counted(rows) == {"chosen_is_longer": 1, "rejected_is_longer": 1}


def test_the_last_answer_alone_is_learned(tokenizer):
    row = {"id": "a", "messages": [USER, SAYS, USER], "chosen": "hello", "rejected": "go away"}
    (pair,), cut = work(tokenizer).items([row])
    said = [
        tokenizer.decode([label for label in item.labels if label != UNLABELLED])
        for item in (pair.chosen, pair.rejected)
    ]
    assert said == [f" hello{tiny_model.END_OF_TEXT}", f" go away{tiny_model.END_OF_TEXT}"]
    assert pair.length == 2 * max(len(pair.chosen.input_ids), len(pair.rejected.input_ids))
    assert cut == 0


def test_a_template_that_forgets_earlier_thoughts_does(tokenizer):
    """As those of models that reason: an answer is written otherwise once another question follows."""
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}"
        "{{ 'A:' + ('(thinks)' if loop.last else '') + m['content'] + eos_token }}"
        "{% else %}{{ 'Q:' + m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
    )
    row = {"id": "a", "messages": [USER, SAYS, USER], "chosen": "hello", "rejected": "go away"}
    (pair,), _ = work(tokenizer, evolve(CHOICES, template="own")).items([row])
    said = tokenizer.decode([label for label in pair.chosen.labels if label != UNLABELLED])
    assert said == f"(thinks)hello{tiny_model.END_OF_TEXT}"


def test_pairs_that_differ_only_beyond_what_is_read_are_left_out(tokenizer):
    same = "the same words " * 9
    rows = [
        RIGHT | {"id": "a"},
        RIGHT | {"id": "b"},
        {"id": "c", "messages": [USER], "chosen": f"{same} a", "rejected": f"{same} b"},
        {"id": "d", "messages": [{"role": "user", "content": same * 3}], "chosen": "a", "rejected": "b"},
    ]
    pairs, cut = work(tokenizer, evolve(CHOICES, max_length=64)).items(rows)
    assert [pair.example for pair in pairs] == [0, 1]
    assert cut == 2


def log_probability(model, item):
    """By hand: that of an answer's tokens, each after all before it, without a batch."""
    with torch.inference_mode():
        logs = model(input_ids=torch.tensor([item.input_ids])).logits[0].log_softmax(-1)
    places = [place for place, label in enumerate(item.labels) if label != UNLABELLED]
    return sum(logs[place - 1, item.input_ids[place]].item() for place in places), len(places)


def test_the_loss_is_that_of_the_paper(tokenizer, model, moved):
    """Equation 7 of arXiv:2305.18290, from the logits of both models."""
    own = work(tokenizer)
    pairs = own.prepared(own.items(examples())[0], lambda items: own.answers(model, items))
    batch = own.batch(pairs)
    with torch.inference_mode():
        outputs = moved(**inputs(batch))
    expected = []
    for pair in pairs:
        (chosen, _), (rejected, _) = log_probability(moved, pair.chosen), log_probability(moved, pair.rejected)
        (before, _), (other, _) = log_probability(model, pair.chosen), log_probability(model, pair.rejected)
        margin = CHOICES.beta * ((chosen - before) - (rejected - other))
        expected.append(math.log1p(math.exp(-margin)))
    assert own.loss(outputs, batch, None).item() == pytest.approx(sum(expected), rel=1e-4)
    assert int(own.count(batch)) == len(pairs)
    said = [held.loss for _, _, held in own.answered(outputs, batch, pairs)]
    assert said == pytest.approx(expected, rel=1e-3)
    assert max(abs(each - math.log(2)) for each in expected) > 0.1


def test_the_start_itself_has_the_loss_of_a_coin(tokenizer, model):
    own = work(tokenizer)
    pairs = own.prepared(own.items(examples())[0], lambda items: own.answers(model, items))
    batch = own.batch(pairs)
    loss = own.loss(model(**inputs(batch)), batch, None)
    assert loss.item() == pytest.approx(len(pairs) * math.log(2), rel=1e-5)


def test_a_step_moves_every_model_towards_what_is_chosen(tokenizer):
    """At the start the gradient is that of half of beta times the margin, whose sign an update follows."""
    own, learner = work(tokenizer), tiny_model.new_model().eval()
    pairs = own.prepared(own.items(examples())[0], lambda items: own.answers(learner, items))
    batch = own.batch(pairs)
    own.loss(learner(**inputs(batch)), batch, None).backward()
    for weight in learner.parameters():
        weight.data -= 1e-3 * weight.grad
    after = {index: held for (index, _), held in own.answers(learner, pairs).items()}
    moved = [
        (after[pair.example].logs[0] - pair.start[0]) - (after[pair.example].logs[1] - pair.start[1]) for pair in pairs
    ]
    assert sum(moved) > 0
    assert all(held.loss < math.log(2) for held in after.values())


def test_fillers_count_for_nothing(tokenizer, model):
    own = work(tokenizer)
    pairs = own.prepared(own.items(examples(3))[0], lambda items: own.answers(model, items))
    few, more = own.batch(pairs[:2]), own.batch(pairs, 1)
    assert (int(own.count(few)), int(own.count(more))) == (2, 2)
    losses = [own.loss(model(**inputs(batch)), batch, None).item() for batch in (few, more)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    none = own.batch(pairs[:1], 1)
    assert (int(own.count(none)), own.loss(model(**inputs(none)), none, None).item()) == (0, 0)


def test_without_the_start_answers_have_no_loss(tokenizer, model):
    own = work(tokenizer)
    pairs, _ = own.items(examples(4))
    found = own.answers(model, pairs)
    for pair in pairs:
        held = found[pair.example, 0]
        assert held.loss is None
        for item, log, tokens in zip((pair.chosen, pair.rejected), held.logs, held.tokens, strict=True):
            expected, count = log_probability(model, item)
            assert (log, tokens) == (pytest.approx(expected, rel=1e-4), count)


def held(chosen, rejected, tokens=(2, 4), loss=None):
    return Held(logs=(chosen, rejected), tokens=tokens, loss=loss)


def test_answers_are_compared_by_token(tokenizer):
    rows = examples(3)
    # By all tokens together, the second pair's chosen answer is likelier, and by token it isn't.
    verdict = work(tokenizer).verdict(rows, {(0, 0): held(-2, -8), (1, 0): held(-6, -8), (2, 0): held(-4, -4)})
    assert verdict.numbers == {
        "accuracy": pytest.approx(1 / 3),
        "margin": pytest.approx((1.0 - 1.0 - 1.0) / 3),
    }
    assert set(verdict.numbers) == {*CHOICES.scores, *CHOICES.numbers}
    assert tuple(verdict.scores) == CHOICES.scores
    assert [(error["id"], error["margin"]) for error in verdict.errors] == [("train:2", -1.0), ("train:3", -1.0)]
    assert verdict.errors[0]["chosen"] == rows[1]["chosen"]


def test_the_clearest_errors_come_first(tokenizer):
    verdict = work(tokenizer).verdict(examples(2), {(0, 0): held(-4, -4), (1, 0): held(-9, -4)})
    assert [error["id"] for error in verdict.errors] == ["train:2", "train:1"]


def test_beside_the_start_the_loss_decides(tokenizer):
    answers = {(0, 0): held(-2, -8, loss=0.5), (1, 0): held(-6, -8, loss=1.0)}
    verdict = work(tokenizer).verdict(examples(2), answers)
    first, *_ = verdict.scores.items()
    assert first[0] == "loss"
    assert (first[1].better, first[1].value) == ("lower", 0.75)


def test_a_pair_that_was_not_read_counts_for_nothing(tokenizer):
    verdict = work(tokenizer).verdict(examples(3), {(2, 0): held(-2, -8)})
    assert verdict.numbers == {"accuracy": 1.0, "margin": 1.0}
    assert verdict.scores["accuracy"].below == [0.0, 0.0, 1.0]


def test_sequences_beside_longer_ones_say_the_same(tokenizer, model):
    """What fills up changes nothing, by transformers' own loss."""
    own = work(tokenizer)
    pairs, _ = own.items(examples())
    batch = own.batch(pairs)
    assert len({item.length for pair in pairs for item in (pair.chosen, pair.rejected)}) > 1
    with torch.inference_mode():
        outputs = model(**inputs(batch))
        whole = functional.cross_entropy(
            outputs.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"
        )
    together = sum(sum(held.logs) for _, _, held in own.answered(outputs, batch, pairs))
    assert -together == pytest.approx(whole.item(), rel=1e-5)
