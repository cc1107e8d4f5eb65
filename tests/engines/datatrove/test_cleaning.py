"""Cleaners through the prepare stage: what they drop, why, and how a user sees it."""

import hashlib
import json
import re
import socket
import tarfile
import time
from pathlib import Path

import pytest
from corpora import read_documents, run, write_jsonl
from datatrove.data import Document
from datatrove.pipeline.filters import url_filter
from datatrove.utils._import_utils import ASSETS_PATH
from strategies import small

from llmrecipe import Machine
from llmrecipe.cli.main import main
from llmrecipe.engines.datatrove.cleaners.steps import step_of
from llmrecipe.recipe import checks
from llmrecipe.recipe.cleaning import (
    LANGUAGES,
    C4Quality,
    FineWebQuality,
    FixUnicode,
    GopherQuality,
    GopherRepetition,
    LanguageFilter,
    LengthFilter,
    MaskPersonalData,
    RegexFilter,
    UrlBlocklist,
)
from llmrecipe.recipe.deduplication import ExactDedup
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.schema import FieldError
from llmrecipe.recipe.source import JsonlFiles, WarcFiles
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
    section = PrepareSection(source=JsonlFiles(paths=("*.jsonl",)), clean=(cleaner,), heldout=Fraction(0.3), shards=2)
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


def test_a_line_that_never_ends_takes_time_by_its_length(project):
    # As a whole, they would take a minute.
    address = '{"mail":"name@firm.com"},'
    endless = [address * 4000, "a-" * 50_000]
    write_jsonl(project / "data.jsonl", [*PROSE, *endless])
    clean = (MaskPersonalData(), GopherQuality())
    section = PrepareSection(source=JsonlFiles(paths=("*.jsonl",)), clean=clean, heldout=Fraction(0.3), shards=1)
    started = time.process_time()
    output = run("prepare", section, project / "out").output
    assert time.process_time() - started < 20
    examples = {row["id"]: row for row in map(json.loads, (output / "dropped.jsonl").read_text().splitlines())}
    masked = examples["data.jsonl:41"]["text"]
    assert "name@firm.com" not in masked
    assert masked.startswith('{"mail":"email@example.com"},{"mail":"firstname.lastname@example.org"},')


def test_documents_in_other_languages_go_with_the_language_as_the_reason(project):
    french = "Nous avons marché jusqu'au port le matin, et c'est là que nous avons trouvé les vieilles lanternes."
    german = "Am Morgen gingen wir zum Hafen, und dort fanden wir\ndie alten Laternen, von denen er sprach."
    numbers = "7 22 315 4 918"
    left, metrics = cleaned(project, LanguageFilter(languages=("en", "de")), french, german, numbers)
    assert left == {*PROSE, german}
    assert metrics["dropped_because"] == {"language_filter": {"language_fr": 1, "uncertain_en": 1}}


def test_the_languages_of_the_recipe_are_those_of_the_model():
    model = step_of(LanguageFilter(languages=("en",))).model
    labels, _ = model.predict("text", k=1000, threshold=-1.0)
    assert {label.removeprefix("__label__") for label in labels} == LANGUAGES


def test_documents_with_a_pattern_go(project):
    left, _ = cleaned(
        project, RegexFilter(pattern=r"(?m)^\s*COPYRIGHT \d+"), "Text.\n  COPYRIGHT 12", "NO COPYRIGHT 12"
    )
    assert left == {*PROSE, "NO COPYRIGHT 12"}


def test_documents_go_if_they_are_shorter_or_longer_than_the_limits_in_characters(project):
    # Of two bytes each: characters count, not bytes.
    texts = {length: "é" * length for length in (99, 100, 999, 1000)}
    left, metrics = cleaned(project, LengthFilter(min_characters=100, max_characters=999), *texts.values())
    assert left == {*PROSE, texts[100], texts[999]}
    assert metrics["dropped_because"] == {"length_filter": {"too_long": 1, "too_short": 1}}


def test_what_was_cut_is_counted_and_what_was_dropped_counts_whole(project):
    page = f"{PROSE[0]}\nHome page\n{PROSE[1]}"
    _, metrics = cleaned(project, C4Quality(min_sentences=3), page, FRAGMENTS)
    gone = ["\nHome page", FRAGMENTS]
    assert (metrics["dropped"]["c4_quality"], metrics["changed"]["c4_quality"]) == (1, 1)
    assert metrics["dropped_tokens"]["c4_quality"] == sum(len(re.findall(r"\w+|[^\w\s]", text)) for text in gone)
    assert metrics["dropped_text_bytes"]["c4_quality"] == sum(len(text) for text in gone)
    left = metrics["read"]["text_bytes"] - sum(metrics["dropped_text_bytes"].values())
    assert left == metrics["train"]["text_bytes"] + metrics["heldout"]["text_bytes"]


def urls_left(cleaner: UrlBlocklist, *urls: str | None) -> list[str | None]:
    documents = [Document(text="text", id="", metadata={"url": url} if url else {}) for url in urls]
    return [document.metadata.get("url") for document in step_of(cleaner).run(documents)]


def test_pages_of_blocked_domains_or_with_blocked_words_in_their_address_go(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    blocklist = UrlBlocklist(domains=("example.co.uk", "blog.example.com"), words=("casino",), fineweb_lists=False)
    kept = [
        None,
        "https://example.com/",
        "https://other.co.uk/example.co.uk",
        "https://notexample.co.uk",
        "https://casinos.org/",
    ]
    gone = [
        "https://example.co.uk/page",
        "http://www.EXAMPLE.co.uk",
        "https://blog.example.com/2",
        "https://site.org/Best-Casino-2",
    ]
    assert urls_left(blocklist, *kept, *gone) == kept


def test_finewebs_lists_are_those_that_datatrove_brings(monkeypatch, tmp_path):
    # A piece of its large file is enough.
    with tarfile.open(Path(ASSETS_PATH) / "url_filterblacklistsv0_3_0.tar.gz") as archive:
        beginning = archive.extractfile("domains").read(1000).decode().split()
    for name in ("domains", "urls"):
        (tmp_path / name).write_text("\n".join(beginning[:20]) + "\n")
    with tarfile.open(tmp_path / "url_filterblacklistsv0_3_0.tar.gz", "w:gz") as archive:
        for name in ("domains", "urls"):
            archive.add(tmp_path / name, name)
    for name in ("banned_words.txt", "banned_subwords.txt", "soft_banned_words.txt"):
        (tmp_path / name).write_bytes((Path(ASSETS_PATH) / name).read_bytes())
    monkeypatch.setattr(url_filter, "ASSETS_PATH", str(tmp_path))
    monkeypatch.setattr(url_filter, "cached_assets_path", lambda **_: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    kept = ["https://docs.python.org/3/"]
    assert urls_left(UrlBlocklist(), *kept, f"https://{beginning[7]}/page") == kept


@pytest.mark.parametrize(
    ("cleaner", "path", "reason"),
    [
        (GopherQuality(min_words=60, max_words=50), "min_words", "60 is more than max_words = 50"),
        (LengthFilter(min_characters=9, max_characters=8), "min_characters", "9 is more than max_characters = 8"),
        (LengthFilter(), "min_characters", "keeps every document"),
    ],
)
def test_limits_that_every_document_or_none_can_meet_are_refused(cleaner, path, reason):
    (violation,) = checks.violations(small(text__clean=(cleaner,)))
    assert violation.path == f"small.models[0].text.clean[0].{path}"
    assert reason in violation.reason


def test_a_blocklist_needs_a_source_with_addresses_and_something_to_block():
    def refused(source, blocklist=None):
        recipe = small(text__source=source, text__clean=(blocklist or UrlBlocklist(),))
        return [violation.reason for violation in checks.violations(recipe)]

    (reason,) = refused(JsonlFiles(paths=("a.jsonl",)))
    assert reason == "looks at addresses, and jsonl_files brings none; set its url_field"
    assert refused(JsonlFiles(paths=("a.jsonl",), url_field="url")) == refused(WarcFiles(paths=("a.warc",))) == []
    (reason,) = refused(WarcFiles(paths=("a.warc",)), UrlBlocklist(fineweb_lists=False))
    assert "blocks nothing" in reason


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: RegexFilter(pattern="(a"), r"pattern: '\(a' is not a regular expression: missing \)"),
        (lambda: LanguageFilter(languages=("english",)), r"languages: 'english' is no language .* use a code"),
        (lambda: UrlBlocklist(domains=("https://a.com",)), r"domains: 'https://a.com' is not a domain"),
        (lambda: UrlBlocklist(words=("Casino",)), r"words: 'Casino' is not a word of lower-case"),
    ],
)
def test_what_could_never_match_is_refused(make, reason):
    with pytest.raises(FieldError, match=reason):
        make()


@pytest.mark.slow
def test_examples_of_what_was_dropped_are_bounded_and_the_same_for_any_number_of_workers(project):
    notes = [f"Note {number}." for number in range(60)]
    write_jsonl(project / "data.jsonl", [*PROSE, *notes, *notes[:5]])
    section = PrepareSection(
        source=JsonlFiles(paths=("*.jsonl",)),
        clean=(ExactDedup(), GopherQuality()),
        heldout=Fraction(0.3),
        shards=4,
    )
    found = []
    for workers in (1, 2):
        context = run("prepare", section, project / f"out{workers}", machine=Machine(workers=workers))
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


def test_a_blocklist_leaves_no_trace_on_what_another_cleaner_drops(project):
    rows = [{"text": text, "url": f"https://good.com/{number}"} for number, text in enumerate([*PROSE, WORDS])]
    rows.append({"text": PROSE[0], "url": "https://Bad.com/page"})
    (project / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = JsonlFiles(paths=("data.jsonl",), url_field="url")
    clean = (UrlBlocklist(domains=("bad.com",), fineweb_lists=False), GopherQuality())
    section = PrepareSection(source=source, clean=clean, heldout=Fraction(0.3), shards=1)
    output = run("prepare", section, project / "out").output
    reasons = [json.loads(line)["because"] for line in (output / "dropped.jsonl").read_text().splitlines()]
    assert reasons == ["gopher_short_doc", "domain: https://Bad.com/page"]


def test_data_show_prints_the_funnel_and_examples(project, capsys):
    write_jsonl(project / "data.jsonl", [*PROSE, WORDS, LIST, " "])
    section = PrepareSection(
        source=JsonlFiles(paths=("*.jsonl",)),
        clean=(GopherQuality(), FixUnicode(), RegexFilter(pattern="harbour"), RegexFilter(pattern="market")),
        heldout=Fraction(0.3),
        shards=1,
    )
    run("prepare", section, project / "artifacts/books")

    assert main(["data", "show", "books"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    gone = len(re.findall(r"\w+|[^\w\s]", f"{WORDS} {LIST}"))
    assert ["read", "43", "0.02"] in lines
    assert ["empty", "1", "0", "0", "0.00", "42", "0.02"] in lines
    assert ["gopher_quality", "2", "0", str(gone), "0.00", "40", "0.01"] in lines
    assert ["gopher_short_doc", "1"] in lines
    # In the order of the recipe, each with what it left; eight documents name each place.
    names = ["read", "empty", "gopher_quality", "fix_unicode", "regex_filter", "regex_filter_2", "train", "heldout"]
    rows = {cells[0]: cells for cells in lines if cells and cells[0] in names}
    assert list(rows) == names
    assert [rows[name][-2] for name in names[1:6]] == ["42", "40", "40", "32", "24"]
    assert int(rows["train"][-2]) + int(rows["heldout"][-2]) == 24

    assert main(["data", "show", "books", "--dropped", "gopher_quality"]) == 0
    shown = capsys.readouterr().out
    assert f"gopher_quality dropped 2 documents and changed 0: {gone} tokens, 0.00 MB" in shown
    assert "data.jsonl:42: gopher_too_many_bullets\n    - item number 0 of the list" in shown

    assert main(["data", "show", "books", "--dropped", "gopher"]) == 1
    assert "did you mean 'gopher_quality'?" in capsys.readouterr().err
    assert main(["data", "show", "shelves"]) == 1
    assert "artifacts/shelves/prepare/metrics.json: no such file; `dvc repro` makes it" in capsys.readouterr().err
