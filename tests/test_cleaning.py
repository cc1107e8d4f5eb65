"""Cleaners through the prepare stage: what they drop, why, and how a user sees it."""

import hashlib
import json
import re
from pathlib import Path

import attrs
import pytest
from corpora import read_documents, run, write_jsonl
from strategies import SMALL

from llmrecipe import (
    C4Quality,
    ExactDedup,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    JsonlFiles,
    MaskPersonalData,
    Runtime,
)
from llmrecipe.cli.main import main
from llmrecipe.recipe import checks
from llmrecipe.sections import PrepareSection

# Forty paragraphs of prose, each its own, for the splits to have something in them.
PLACES = ("harbour", "market", "garden", "library", "station")
THINGS = ("the old lanterns", "a box of letters", "the blue curtains", "three wooden chairs", "a map of the coast",
          "the broken clock", "some dry bread", "a pair of gloves")  # fmt: skip
PROSE = [
    f"We walked to the {place} in the morning, and it was there that we found {thing} of which my brother had spoken. "
    f"Nobody knew to whom {thing} belonged. The people with whom we spoke that day said that the {place} would be "
    f"closed until winter, and they have been right. I remember that the {place} smelled of rain and of {thing}."
    for place in PLACES
    for thing in THINGS
]
LIST = "\n".join(f"- item number {number} of the list" for number in range(30))
CODE = "\n".join(f"def f{number}(x): return {{x: {number}}}" for number in range(30))
WORDS = " ".join(["word"] * 40)
REPEATED = "\n\n".join(["This is the same paragraph, and it comes again and again to the end of the page."] * 8)
FRAGMENTS = "\n".join(f"Menu entry {number}" for number in range(30))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cleaned(project: Path, cleaner, *others: str):
    """What is left of the prose and of `others`, and the metrics."""
    write_jsonl(project / "data.jsonl", [*PROSE, *others])
    section = PrepareSection(source=JsonlFiles(paths=("*.jsonl",)), clean=(cleaner,), heldout_fraction=0.3, shards=2)
    context = run("prepare", section, project / "out")
    left = [d["text"] for split in ("train", "heldout") for d in read_documents(context.output / "documents", split)]
    return set(left), json.loads((context.output / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("cleaner", "dropped"),
    [
        (GopherQuality(), {LIST: "gopher_too_many_bullets", WORDS: "gopher_short_doc"}),
        (GopherQuality(min_words=10), {WORDS: "gopher_enough_stop_words", LIST: "gopher_too_many_bullets"}),
        (GopherRepetition(), {REPEATED: "dup_para_frac"}),
        (C4Quality(min_sentences=3), {CODE + " {.": "curly_bracket", FRAGMENTS: "too_few_sentences"}),
        (FineWebQuality(), {FRAGMENTS: "line_punct_ratio"}),
        (FineWebQuality(min_punctuated_lines=0.0), {FRAGMENTS: "short_line_ratio"}),
    ],
    ids=lambda value: getattr(value, "tag", None),
)
def test_a_filter_keeps_prose_and_says_why_it_drops_the_rest(project, cleaner, dropped):
    left, metrics = cleaned(project, cleaner, *dropped)

    assert left == set(PROSE)
    assert metrics["dropped"] == {"empty": 0, cleaner.tag: len(dropped)}
    assert metrics["dropped_because"] == {cleaner.tag: dict.fromkeys(dropped.values(), 1)}


def test_c4_drops_single_lines_and_can_leave_brackets_alone(project):
    page = (
        f"{PROSE[0]}\nHome\nPlease enable javascript to read on.\n{PROSE[1]}\nA set is written {{a, b}} in this book."
    )
    left, _ = cleaned(project, C4Quality(min_sentences=3, curly_brackets=True), page)
    assert left == {*PROSE, f"{PROSE[0]}\n{PROSE[1]}\nA set is written {{a, b}} in this book."}


def test_addresses_are_replaced_and_private_ones_stay(project):
    letter = "Write to jane.doe@company.net, or to the server at 8.8.8.8, not at 192.168.0.1."
    left, metrics = cleaned(project, MaskPersonalData(), letter)
    (masked,) = left - set(PROSE)
    assert "jane.doe" not in masked
    assert "@example." in masked
    assert "8.8.8.8" not in masked
    assert "192.168.0.1" in masked
    assert metrics["dropped"]["mask_personal_data"] == 0
    assert metrics["dropped_because"] == {}


def test_limits_that_no_document_can_meet_are_refused():
    corpus = attrs.evolve(SMALL.corpus, clean=(GopherQuality(min_words=60, max_words=50),))
    (violation,) = checks.violations(attrs.evolve(SMALL, corpus=corpus))
    assert violation.path == "small.corpus.clean[0].min_words"
    assert "60 is more than max_words = 50" in violation.reason


def test_examples_of_what_was_dropped_are_bounded_and_the_same_for_any_number_of_workers(project):
    notes = [f"Note {number}." for number in range(60)]
    write_jsonl(project / "data.jsonl", [*PROSE, *notes, *notes[:5]])
    section = PrepareSection(
        source=JsonlFiles(paths=("*.jsonl",)),
        clean=(ExactDedup(), GopherQuality()),
        heldout_fraction=0.3,
        shards=4,
    )
    found = []
    for workers in (1, 2):
        context = run("prepare", section, project / f"out{workers}", runtime=Runtime(workers=workers))
        found.append((context.output / "dropped.jsonl").read_bytes())
    assert found[0] == found[1]

    rows = [json.loads(line) for line in found[0].splitlines()]
    metrics = json.loads((context.output / "metrics.json").read_text())
    assert metrics["dropped"] == {"empty": 0, "exact_dedup": 5, "gopher_quality": 60}
    assert metrics["dropped_text_bytes"]["gopher_quality"] == sum(len(note) for note in notes)
    by = {name: [row for row in rows if row["by"] == name] for name in ("exact_dedup", "gopher_quality")}
    assert sorted(row["text"] for row in by["exact_dedup"]) == sorted(notes[:5])
    smallest = sorted(notes, key=lambda note: hashlib.sha256(note.encode()).hexdigest())[:20]
    assert [row["text"] for row in by["gopher_quality"]] == smallest
    assert {row["because"] for row in by["gopher_quality"]} == {"gopher_short_doc"}


def test_data_show_prints_the_funnel_and_examples(project, capsys):
    write_jsonl(project / "data.jsonl", [*PROSE, WORDS, LIST, " "])
    section = PrepareSection(
        source=JsonlFiles(paths=("*.jsonl",)), clean=(GopherQuality(),), heldout_fraction=0.3, shards=1
    )
    run("prepare", section, project / "artifacts/books")

    assert main(["data", "show", "books"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    gone = len(re.findall(r"\w+|[^\w\s]", f"{WORDS} {LIST}"))
    assert ["read", "43", "0.02"] in lines
    assert ["empty", "1", "0", "0", "0.00", "42", "0.02"] in lines
    assert ["gopher_quality", "2", "0", str(gone), "0.00", "40", "0.01"] in lines
    assert ["gopher_short_doc", "1"] in lines

    assert main(["data", "show", "books", "--dropped", "gopher_quality"]) == 0
    shown = capsys.readouterr().out
    assert f"gopher_quality dropped 2 documents and changed 0: {gone} tokens, 0.00 MB" in shown
    assert "data.jsonl:42: gopher_too_many_bullets\n    - item number 0 of the list" in shown

    assert main(["data", "show", "books", "--dropped", "gopher"]) == 1
    assert "did you mean 'gopher_quality'?" in capsys.readouterr().err
    assert main(["data", "show", "shelves"]) == 1
    assert "artifacts/shelves/prepare/metrics.json: no such file; `dvc repro` makes it" in capsys.readouterr().err
