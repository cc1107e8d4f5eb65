"""`llmrecipe help`."""

import pytest

from llmrecipe import catalogue
from llmrecipe.cli.main import main


def shown(capsys, *words: str) -> str:
    assert main(["help", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("word", ["AdamW", "optimizer.AdamW", "llmrecipe.optimizer.AdamW"])
def test_a_word_is_found_with_and_without_its_room(word, capsys):
    page = shown(capsys, word)
    assert page.startswith("optimizer.AdamW\n\nAdam with decoupled weight decay")
    assert "    beta1: float = 0.9\n        Decay of the gradient's running mean.\n" in page


def test_the_page_says_which_words_fit_a_field(capsys):
    page = shown(capsys, "Trained")
    fitting = page.partition("What fits:\n")[2]
    assert "    text: Corpus, Mixture\n" in fitting
    assert "    objective: CausalLM, MaskedLM, MultiMaskLM\n" in fitting
    assert "augment.ShuffleSpans" in shown(capsys, "Corpus").partition("What fits:\n")[2]


def test_a_room_lists_its_words(capsys):
    lines = shown(capsys, "schedule").splitlines()
    assert lines[0] == "How the learning rate moves over a run."
    assert [line.split()[0] for line in lines[2:]] == [
        f"schedule.{name}" for name in ("Constant", "Cosine", "InverseSquareRoot", "Linear", "WarmupStableDecay")
    ]


def test_without_a_word_all_are_listed(capsys):
    lines = shown(capsys).splitlines()
    every = {each for written in catalogue.words().values() for each in written} - catalogue.rooms().keys()
    assert {line.split()[0] for line in lines} == every
    assert all(len(line.split()) > 1 for line in lines)


@pytest.mark.parametrize(
    ("given", "meant"), [("Adam", "optimizer.AdamW"), ("scheme.W4A61", "scheme.W4A16"), ("optimizer.Llama", "Llama")]
)
def test_a_mistyped_word_gets_a_suggestion(given, meant, capsys):
    assert main(["help", given]) == 1
    assert capsys.readouterr().err == (
        f"error: {given}: no word of the language; did you mean {meant}? `llmrecipe help` lists all\n"
    )


def test_what_a_word_does_has_a_page_too(capsys):
    assert shown(capsys, "Trained.at").startswith("Trained.at(self, step: int) -> 'Checkpoint'\n\nThe model as it was")
    assert "scheme.Override.matches(self, name: str)" in shown(capsys, "Override.matches")
    assert main(["help", "Trained.bt"]) == 1
    assert capsys.readouterr().err.startswith("error: Trained.bt: no word of the language; ")
