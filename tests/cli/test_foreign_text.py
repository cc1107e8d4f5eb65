"""Text of others is shown as it is, but for what a terminal would obey."""

import argparse
import errno
import json
import logging
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrecipe import layout
from llmrecipe.cli import augmented, clean, data, main, render
from llmrecipe.errors import LoadError, StageError
from llmrecipe.foreign import foreign
from llmrecipe.recipe.machine import Machine
from llmrecipe.stages import runner

EVIL = "\x1b]0;title\x07\x9b31m\x08\x7f"
KEPT = "　全角の می‌خواهم 👨‍👩‍👧 a b c\u2028d\u200ee\tf"


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_whatever_is_no_control_character_stays(text):
    assert foreign(text) == text


@given(st.text(st.characters()))
def test_no_control_character_but_line_breaks_and_tabs_reaches_the_terminal(text):
    shown = foreign(text)
    assert not {"Cc", "Cs"} & {unicodedata.category(character) for character in shown if character not in "\n\t"}
    shown.encode()


def test_a_users_own_traceback_is_shown_without_what_a_terminal_would_obey(capsys):
    render.show_error(LoadError("recipes/a.py: failed", f"Traceback:\n  raise ValueError({EVIL})\n"))

    shown = capsys.readouterr().err
    assert "\x1b" not in shown
    assert shown.endswith("\nerror: recipes/a.py: failed\n")


def test_windows_line_breaks_are_line_breaks():
    assert foreign("a\r\nb\rc") == "a\nb\ufffdc"


def write(corpus: str, kind: str, metrics: dict, file: str, rows: list[dict]) -> None:
    folder = Path(layout.folder(corpus, kind))
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    counts = {"exact": 1}
    names = ("dropped", "changed", "dropped_tokens", "dropped_text_bytes")
    metrics = dict.fromkeys(names, counts) | {"cleaners": ["exact"]}
    row = {"by": "exact", "id": f"a{EVIL}", "because": f"b{EVIL}", "text": f"x{EVIL}{KEPT}"}
    write("web", "prepare", metrics, "dropped.jsonl", [row])
    known = {"other": {"tried": 1, "kept": 1, "share": 0.1, "share_of_bytes": 0.1, "dropped": {}}}
    row = {"by": "other", "id": f"a{EVIL}", "because": "", "source": f"x{EVIL}{KEPT}", "text": f"y{EVIL}{KEPT}"}
    write("web", "augment", {"augmented": known}, "examples.jsonl", [row])


def test_dropped_documents_and_augmented_ones_obey_nothing(project, capsys):
    data.run(argparse.Namespace(corpus="web", dropped="exact", augmented=None))
    for shown in (capsys.readouterr().out, augmented.shown("web", "other")):
        assert not set(EVIL) & {sign for sign in shown if unicodedata.category(sign) == "Cc"}
        for part in KEPT.split("\u2028"):
            assert part in shown


def test_an_error_obeys_nothing(capsys):
    render.show_error(StageError(f"{KEPT}{EVIL}: no such file"))
    assert KEPT in capsys.readouterr().err


def test_the_log_of_a_stage_obeys_nothing(monkeypatch, capsys):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    runner._set_up_log("web-prepare", Machine())

    logging.getLogger("llmrecipe.engines").warning("%s holds %s", f"data/{EVIL}.txt", KEPT)
    logging.getLogger("transformers").warning(EVIL)

    shown = capsys.readouterr().err
    assert shown.startswith("web-prepare: data/")
    assert KEPT in shown
    assert not set(EVIL) & {sign for sign in shown if unicodedata.category(sign) == "Cc"}


def test_a_file_that_the_system_refuses_obeys_nothing(monkeypatch, capsys):
    def refused(_):
        raise OSError(errno.ENOSPC, "", f"data/{EVIL}")

    monkeypatch.setattr(clean, "leftovers", refused)
    assert main.main(["clean", "--dry-run"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: data/\ufffd]0;title")
    assert "\x1b" not in shown
