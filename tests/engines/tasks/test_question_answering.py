"""What a model reads of questions, what it learns of them, and which answer it gives."""

import math
from types import SimpleNamespace

import pytest
import tiny_model
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast
from transformers.data.metrics.squad_metrics import squad_evaluate

from llmrecipe import task
from llmrecipe.cards import TaskCard
from llmrecipe.engines.tasks.question_answering import Candidate, QuestionAnsweringWork
from llmrecipe.engines.tasks.squad import normalized
from llmrecipe.engines.tasks.windows import NOWHERE
from llmrecipe.engines.tasks.work import inputs

WORDS = ["a", "Ada", "London,", "(1815-1852)", "Größe", "東京", "e\u0301", "🙂", "[SEP]", "argument"]


def bert():
    """A tokenizer that lowers all letters, and puts tokens and types around two texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        WORDS, trainers.WordPieceTrainer(vocab_size=100, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    read = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=read, **names)


def pieces():
    """A tokenizer as SentencePiece's: a space is the beginning of a word, and there is one before each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        WORDS * 2, trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "</s>"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return [tiny_model.write_tokenizer(tmp_path_factory.mktemp("tokenizer")), bert(), pieces()]


def work(tokenizer, **changes):
    known = {"max_length": 24, "doc_stride": 6, "max_answer_length": 8} | changes
    what = task.QuestionAnswering(name="q", train="q.json", **known)
    return QuestionAnsweringWork(TaskCard(task=what, labels=()), tokenizer)


def example(context, *answers, question="Where?"):
    """A question whose answers are the first of such texts in its context."""
    starts = [context.index(answer) for answer in answers]
    answers = {"text": list(answers), "answer_start": starts}
    return {"id": question, "context": context, "question": question, "answers": answers}


words = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", "  ", "\n"])), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2), words, st.data())
def test_windows_have_the_whole_context_and_labels_are_the_answer(tokenizers, which, drawn, data):
    tokenizer = tokenizers[which]
    context = "".join(word + space for word, space in drawn)
    first = data.draw(st.integers(0, len(drawn) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(drawn) - 1)))
    start = len("".join(word + space for word, space in drawn[:first]))
    # With a space behind it, as in files that are not so clean.
    text = "".join(word + space for word, space in drawn[first : last + 1])
    row = {"context": context, "question": "Who?", "answers": {"text": [text], "answer_start": [start]}}
    windows, lost = work(tokenizer).items([row])
    whole = tokenizer(context, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    question = tokenizer("Who?", add_special_tokens=False)["input_ids"]
    read, at = [], 0
    for number, window in enumerate(windows):
        assert (window.example, window.number) == (0, number)
        assert window.length <= 24
        part = window.input_ids[window.first : window.first + len(window.spans)]
        assert question == window.input_ids[window.first - len(question) - 1 : window.first - 1]
        # Each goes on six tokens before the end of the one before it.
        assert part == whole[at : at + len(part)]
        read = [*read[:at], *part]
        at += len(part) - 6
    assert read == whole
    labelled = [window for window in windows if window.labels != [NOWHERE, NOWHERE]]
    assert lost == (not labelled)
    for window in labelled:
        one, other = window.labels
        assert (
            context[window.spans[one - window.first][0] : window.spans[other - window.first][1]].strip() == text.strip()
        )
        tokens = window.input_ids[one : other + 1]
        # The second one changes letters, and what isn't known can't be decoded.
        if which != 1 and tokenizer.unk_token_id not in tokens:
            assert normalized(tokenizer.decode(tokens, clean_up_tokenization_spaces=False)) == normalized(text)


@given(st.integers(1, 80), st.integers(0, 8))
@settings(deadline=None)
def test_windows_are_those_that_the_tokenizer_makes_itself(tokenizers, length, overlap):
    tokenizer, context = tokenizers[1], "a " * length
    windows, _ = work(tokenizer, doc_stride=overlap).items([example(context)])
    options = {"truncation": "only_second", "max_length": 24, "stride": overlap, "return_overflowing_tokens": True}
    theirs = tokenizer("Where?", context, **options)
    assert [window.input_ids for window in windows] == theirs["input_ids"]
    assert [window.token_types for window in windows] == theirs["token_type_ids"]


def test_a_window_is_what_the_tokenizer_makes_of_both_texts(tokenizers):
    (window,), _ = work(tokenizers[1], max_length=64).items([example("Ada a London,", "London,")])
    theirs = tokenizers[1]("Where?", "Ada a London,")
    assert window.input_ids == theirs["input_ids"]
    assert window.token_types == theirs["token_type_ids"]


def test_a_tokenizer_that_puts_nothing_between_texts_gets_what_ends_the_first(tokenizers):
    (window,), _ = work(tokenizers[0], max_length=64).items([example("Ada", "Ada")])
    assert window.input_ids[window.first - 1] == tokenizers[0].eos_token_id
    assert window.input_ids[window.first :] == tokenizers[0]("Ada")["input_ids"]
    assert window.token_types is None


def test_what_looks_like_a_special_token_is_none(tokenizers):
    (window,), _ = work(tokenizers[1], max_length=64).items([example("[SEP] a", "[SEP]", question="[CLS]?")])
    assert [window.input_ids.count(token) for token in (2, 3)] == [1, 2]


def test_a_question_gets_half_of_what_is_read_and_is_counted_if_it_is_longer(tokenizers):
    items, cut = work(tokenizers[1]).items([example("Ada", "Ada", question="a " * 30), example("a", "a")])
    assert cut == 1
    # Of 24 tokens, three frame both texts.
    assert items[0].first == 1 + 10 + 1


def test_an_answer_that_no_window_has_whole_is_counted(tokenizers):
    long = example("a " * 30, "a " * 25)
    items, cut = work(tokenizers[1]).items([long, example("a", "a")])
    assert cut == 1
    assert all(item.labels == [NOWHERE, NOWHERE] for item in items if item.example == 0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=120, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return BertForQuestionAnswering(config).eval()


ROWS = [example("Ada a London, argument", "London,"), example("a", question="argument Größe?"), example("Ada", "Ada")]


def test_the_loss_is_that_of_transformers_whatever_fills_a_batch_up(tokenizers, model):
    what = work(tokenizers[1], max_length=64)
    items, _ = what.items(ROWS)
    assert len({item.length for item in items}) == len(items) == 3
    theirs = []
    for item in items:
        read = {"input_ids": torch.tensor([item.input_ids]), "token_type_ids": torch.tensor([item.token_types])}
        start, end = item.labels
        theirs.append(
            model(**read, start_positions=torch.tensor([start]), end_positions=torch.tensor([end])).loss.item()
        )
    batch = what.batch(items)
    assert what.loss(model(**inputs(batch)), batch, None).item() == pytest.approx(sum(theirs), rel=1e-5)
    batch = what.batch(items, fillers=1)
    assert what.count(batch) == 2
    assert what.loss(model(**inputs(batch)), batch, None).item() == pytest.approx(sum(theirs[:2]), rel=1e-5)


def test_the_likeliest_spans_are_those_of_all(tokenizers, model):
    """No beginning behind its end, nothing of the question, and at most so many tokens."""
    what = work(tokenizers[1], max_length=64, max_answer_length=3)
    items, _ = what.items(ROWS)
    batch = what.batch(items)
    outputs = model(**inputs(batch))
    for example_, number, found in what.answered(outputs, batch, items):
        (item,) = [each for each in items if (each.example, each.number) == (example_, number)]
        row = items.index(item)
        starts, ends = outputs.start_logits[row].tolist(), outputs.end_logits[row].tolist()
        assert found[0].span is None
        assert found[0].score == pytest.approx(starts[0] + ends[0])
        every = [
            (starts[item.first + one] + ends[item.first + other], (item.spans[one][0], item.spans[other][1]))
            for one in range(len(item.spans))
            for other in range(one, min(one + 3, len(item.spans)))
        ]
        best = sorted(every, reverse=True)[:20]
        assert [each.span for each in found[1:]] == [span for _, span in best]
        assert [each.score for each in found[1:]] == pytest.approx([score for score, _ in best])


def candidates(none, *spans):
    return [Candidate(span=None, score=none), *(Candidate(span=span, score=score) for score, span in spans)]


def chosen(rows, answers, **changes):
    return work(bert(), **changes).chosen(rows, answers)


def test_a_context_has_no_answer_if_every_window_says_so():
    row = example("in London or in Paris", "London")
    sure = {(0, 0): candidates(5.0, (1.0, (3, 9))), (0, 1): candidates(4.0, (2.0, (16, 21)))}
    assert chosen([row], sure, unanswerable=True)[0][0][0] == ""
    # The window that is least sure of it decides, though the other is surer than of any words.
    split = sure | {(0, 1): candidates(1.5, (2.0, (16, 21)))}
    assert chosen([row], split, unanswerable=True)[0][0][0] == "Paris"
    # Words win where both are as likely, and always where every question has an answer.
    equal = {(0, 0): candidates(2.0, (2.0, (3, 9)))}
    assert chosen([row], equal, unanswerable=True)[0][0][0] == "London"
    assert [text for text, _ in chosen([row], sure)[0]] == ["Paris", "London"]


def test_how_sure_an_answer_is_by_hand():
    row = example("in London or in Paris", "London")
    answers = {(0, 0): candidates(0.0, (1.0, (3, 9)), (0.5, (2, 9))), (0, 1): candidates(2.0, (0.0, (16, 21)))}
    found = dict(chosen([row], answers, unanswerable=True)[0])
    # One text at two places, or with a space, is one answer.
    whole = math.exp(1.0) + math.exp(0.0) + math.exp(0.0)
    assert {text: math.exp(log) for text, log in found.items()} == pytest.approx(
        {"London": math.exp(1.0) / whole, "": 1 / whole, "Paris": 1 / whole}
    )


def test_nothing_to_choose_from_is_no_answer():
    assert chosen([example(" ")], {(0, 0): candidates(1.0, (9.0, (0, 1)))})[0] == [("", 0.0)]


SAID = ["the London", "London or", "Paris", "in", ""]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from(SAID[:4]), max_size=2), st.sampled_from(SAID)), min_size=1, max_size=6)
)
def test_numbers_are_those_of_the_script_of_squad(pairs):
    context = "in the London or Paris"
    rows = [example(context, *gold) | {"id": str(index)} for index, (gold, _) in enumerate(pairs)]
    answers = {}
    for index, (_, said) in enumerate(pairs):
        span = (context.index(said), context.index(said) + len(said)) if said else (0, 2)
        answers[index, 0] = candidates(0.0, (1.0 if said else -1.0, span))
    verdict = work(bert(), unanswerable=True).verdict(rows, answers)
    theirs = squad_evaluate(
        [
            SimpleNamespace(qas_id=row["id"], answers=[{"text": text} for text in row["answers"]["text"]])
            for row in rows
        ],
        {str(index): said for index, (_, said) in enumerate(pairs)},
    )
    assert {name: 100 * number for name, number in verdict.numbers.items()} == pytest.approx(
        {
            "exact_match": theirs["exact"],
            "f1": theirs["f1"],
            **({"has_answer_f1": theirs["HasAns_f1"]} if "HasAns_f1" in theirs else {}),
            **({"no_answer_accuracy": theirs["NoAns_exact"]} if "NoAns_exact" in theirs else {}),
        }
    )
    assert [right for _, right in verdict.sure] == [bool(each) for each in verdict.scores["exact_match"].above]
    assert {error["id"] for error in verdict.errors} == {
        row["id"] for row, (_, right) in zip(rows, verdict.sure, strict=True) if not right
    }


def test_the_clearest_errors_come_first_with_what_was_expected():
    context = "in the London or Paris"
    rows = [
        example(context, "Paris") | {"id": "a"},
        example(context) | {"id": "b"},
        example(context, "in") | {"id": "c"},
    ]
    answers = {
        (0, 0): candidates(0.0, (3.0, (7, 13)), (2.0, (17, 22))),
        (1, 0): candidates(-2.0, (3.0, (7, 13))),
        (2, 0): candidates(0.0, (3.0, (0, 2))),
    }
    found = work(bert(), unanswerable=True).verdict(rows, answers).errors
    assert [(each["id"], each["expected"], each["answered"]) for each in found] == [
        ("b", "–", "London"),
        ("a", "Paris", "London"),
    ]
    assert [each["surprise"] for each in found] == pytest.approx([5.0, 1.0])
