"""Chats out of packages, as the module writes them."""

import json
import sys

import pytest

from recipes import chats

PO = """msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

msgid "Save"
msgstr "Enregistrer"

msgid "%"
msgstr "%"
"""


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["chats", *map(str, arguments)])
    chats.main()


def test_a_catalogue_becomes_chats(monkeypatch, tmp_path):
    path = tmp_path / "packages/a/locale/fr/LC_MESSAGES/django.po"
    path.parent.mkdir(parents=True)
    path.write_text(PO, encoding="utf-8")
    run(monkeypatch, "translations", tmp_path / "packages", "fr", tmp_path / "data/out.jsonl")
    (row,) = map(json.loads, (tmp_path / "data/out.jsonl").read_text(encoding="utf-8").splitlines())
    assert [message["content"] for message in row["messages"]] == ["Translate into French:\nSave", "Enregistrer"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("summaries", "nowhere", "out.jsonl"), "there is no folder 'nowhere'"),
        (("summaries", ".", "out.jsonl"), "'.' holds nothing of that"),
        (("translations", ".", "out.jsonl"), "translations need a language"),
        (("summaries", ".", "fr", "out.jsonl"), "nothing else does"),
    ],
)
def test_what_makes_no_chats_is_refused_and_writes_nothing(monkeypatch, tmp_path, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(monkeypatch, *arguments)
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
