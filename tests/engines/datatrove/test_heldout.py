"""Held-out text of a source of its own: all of it stays, as it is once mended, and nothing equal is learned from."""

import json
import random
from pathlib import Path

import pytest
from corpora import contents, read_documents, run, write_jsonl

from llmrecipe import funnel
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.errors import StageError
from llmrecipe.recipe.cleaning import C4Quality, FixUnicode, LengthFilter
from llmrecipe.recipe.deduplication import Decontaminate, ExactDedup, MinHashDedup, SentenceDedup
from llmrecipe.recipe.kinds import Cleaner
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.sections import PrepareSection

TRAIN, TEST = JsonlFiles(paths=("train.jsonl",)), JsonlFiles(paths=("test.jsonl",))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(clean: tuple[Cleaner, ...] = (), shards: int = 2) -> PrepareSection:
    return PrepareSection(source=TRAIN, clean=clean, heldout=TEST, shards=shards)


class Prepared:
    """What the stage leaves."""

    def __init__(self, output: Path) -> None:
        self.documents = {
            split: {d["id"]: d["text"] for d in read_documents(output / "documents", split)}
            for split in ("train", "heldout")
        }
        self.metrics = json.loads((output / "metrics.json").read_text())
        self.examples = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]


def prepared(project: Path, train: list[str], test: list[str], *clean: Cleaner, shards: int = 2, **options) -> Prepared:
    write_jsonl(project / "train.jsonl", train)
    write_jsonl(project / "test.jsonl", test)
    return Prepared(run("prepare", section(clean, shards), project / "out", **options).output)


def prose(seed: int, count: int) -> str:
    generator = random.Random(seed)
    return " ".join("".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(count))


def test_all_of_it_is_held_out_and_all_else_is_for_training(project):
    train, test = ([f"{name} {number}" for number in range(9)] for name in ("train", "test"))
    found = prepared(project, train, test)
    assert found.documents["train"] == {f"train.jsonl:{number}": text for number, text in enumerate(train, 1)}
    assert found.documents["heldout"] == {f"test.jsonl:{number}": text for number, text in enumerate(test, 1)}
    size = sum(len(text) for text in test)
    assert found.metrics["read"] == {"documents": 9, "text_bytes": sum(len(text) for text in train)}
    assert found.metrics["heldout_read"] == {"documents": 9, "text_bytes": size, "empty": 0}
    assert found.metrics["heldout"] == {"documents": 9, "text_bytes": size}


def test_training_documents_that_equal_one_are_dropped_whatever_the_cleaners_and_counted_by_themselves(project):
    train = ["seen", "own 1", "seen", "own 2", "also seen", "Seen"]
    found = prepared(project, train, ["seen", "also seen", "unseen"])
    assert sorted(found.documents["train"].values()) == ["Seen", "own 1", "own 2"]
    assert found.metrics["dropped"] == {"empty": 0, "equals_heldout": 3}
    assert found.metrics["dropped_text_bytes"]["equals_heldout"] == 4 + 4 + 9
    assert sorted((row["by"], row["id"], row["text"]) for row in found.examples) == [
        ("equals_heldout", "train.jsonl:1", "seen"),
        ("equals_heldout", "train.jsonl:3", "seen"),
        ("equals_heldout", "train.jsonl:5", "also seen"),
    ]
    rows = {line.split()[0]: line.split() for line in funnel.text(found.metrics).splitlines() if line.strip()}
    assert rows["equals_heldout"][1] == "3"
    assert (rows["train"][1], rows["heldout"][1]) == ("3", "3")
    assert "heldout read" in funnel.text(found.metrics)


def test_texts_are_compared_once_both_are_mended(project):
    found = prepared(project, ["schön", "schÃ¶ner", "own"], ["schÃ¶n", "schöner"], FixUnicode())
    assert list(found.documents["heldout"].values()) == ["schön", "schöner"]
    assert list(found.documents["train"].values()) == ["own"]
    assert found.metrics["dropped"] == {"empty": 0, "fix_unicode": 0, "equals_heldout": 2}
    assert list(found.metrics["cleaners"]) == ["empty", "fix_unicode", "equals_heldout"]


def test_nothing_of_it_is_dropped_by_filters_or_for_being_there_twice(project):
    near = prose(1, 60)
    test = ["short", "short", near, f"{near} more", f"{near} more"]
    clean = (LengthFilter(min_characters=6), ExactDedup(), MinHashDedup(), SentenceDedup(), Decontaminate(heldout=True))
    train = [prose(number, 60) for number in range(2, 9)]
    found = prepared(project, [*train, "tiny"], test, *clean)
    assert sorted(found.documents["heldout"].values()) == sorted(test)
    assert sorted(found.documents["train"].values()) == sorted(train)
    assert found.metrics["dropped"]["length_filter"] == 1
    assert sum(found.metrics["dropped"].values()) == 1
    assert sum(found.metrics["changed"].values()) == 0


def test_a_cleaner_that_mends_and_drops_only_mends_it(project):
    kept, cut = "A line that is long enough. " * 6, "no end of a sentence"
    test = [f"{kept}\n{cut}", cut, "One { bracket. " * 9]
    found = prepared(project, [f"own {kept}\n{cut}", cut], test, C4Quality(), shards=1)
    # Of the first a line goes; the others would go as a whole.
    assert list(found.documents["heldout"].values()) == [kept.strip(), *test[1:]]
    assert len(found.documents["train"]) == 1
    assert found.metrics["dropped"]["c4_quality"] == 1


def test_what_nearly_equals_one_is_dropped_where_the_corpus_compares_so(project):
    original = prose(1, 100)
    near = f"{original} {prose(2, 3)}"
    train = [near, original, *(prose(number, 100) for number in range(3, 20))]
    assert len(prepared(project, train, [original]).documents["train"]) == 18
    (project / "out").rename(project / "before")
    found = prepared(project, train, [original], MinHashDedup())
    assert sorted(found.documents["train"].values()) == sorted(train[2:])
    assert found.metrics["dropped"] == {"empty": 0, "equals_heldout": 1, "minhash_dedup": 1}
    assert list(found.documents["heldout"].values()) == [original]


def test_a_span_of_sentences_that_it_holds_is_cut_from_training_documents(project):
    def sentences(seed: int, count: int) -> list[str]:
        return [f"{prose(100 * seed + number, 8).capitalize()}." for number in range(count)]

    span = sentences(1, 3)
    train = [" ".join([*sentences(2, 8), *span, *sentences(3, 8)]), " ".join(sentences(4, 12))]
    test = [" ".join([*sentences(5, 2), *span]), " ".join([*span, *sentences(6, 2)])]
    found = prepared(project, train, test, SentenceDedup())
    assert list(found.documents["heldout"].values()) == test
    assert sorted(found.documents["train"].values()) == sorted(
        [" ".join([*sentences(2, 8), *sentences(3, 8)]), train[1]]
    )


def test_what_cutting_made_equal_to_one_is_dropped_too(project):
    def sentences(seed: int, count: int) -> str:
        return " ".join(f"{prose(100 * seed + number, 8).capitalize()}." for number in range(count))

    short, span = sentences(1, 2), sentences(2, 3)
    train = [f"{sentences(3, 9)} {span}", f"{span} {short}", sentences(4, 9)]
    wanted = SentenceDedup(min_words=0, min_sentences=0)
    found = prepared(project, train, [short], wanted, shards=1)
    assert list(found.documents["train"].values()) == [train[0], train[2]]
    assert found.metrics["dropped"] == {"empty": 0, "sentence_dedup": 0, "equals_heldout": 1}


def test_a_shared_n_gram_is_contamination_as_before(project):
    shared = prose(1, 13)
    train = [f"{prose(2, 20)} {shared} {prose(3, 20)}", prose(4, 60)]
    found = prepared(project, train, [f"{shared} {prose(5, 20)}"], Decontaminate(heldout=True))
    assert list(found.documents["train"].values()) == train[1:]
    assert found.metrics["dropped_because"] == {"decontaminate": {"heldout": 1}}


def test_cleaners_apply_to_it_once_even_if_documents_are_compared_before(project):
    # Mended twice, it would be another: a doubly broken text.
    once, twice = "schön", "schÃƒÂ¶n"
    found = prepared(project, ["own", twice], [twice], ExactDedup(), FixUnicode())
    assert list(found.documents["heldout"].values()) == [once]
    assert list(found.documents["train"].values()) == ["own"]


@pytest.mark.parametrize("texts", [["", " \n"], []], ids=["no text", "no document"])
def test_an_empty_source_is_an_error(project, texts):
    with pytest.raises(StageError, match=r"test\.jsonl: empty|^corpus\.heldout: nothing to hold out: none of its 2"):
        prepared(project, ["own"], texts)


def test_a_corpus_of_nothing_but_held_out_texts_is_an_error(project):
    with pytest.raises(StageError, match=r"^corpus\.heldout: the corpus is empty: equals_heldout left none of 2"):
        prepared(project, ["seen", "seen"], ["seen"])


def test_files_of_it_that_can_not_be_read_are_named(project):
    write_jsonl(project / "train.jsonl", ["own"])
    with pytest.raises(StageError, match=r"^test\.jsonl: no file matches this pattern"):
        run("prepare", section(), project / "out")


CLEAN = (FixUnicode(), ExactDedup(), MinHashDedup())


def write_some(project: Path) -> None:
    texts = [prose(number, 40) for number in range(60)]
    write_jsonl(project / "train.jsonl", [*texts, *texts[:7]])
    write_jsonl(project / "test.jsonl", [*texts[:9], *(prose(number, 40) for number in range(100, 130))])


@pytest.mark.slow
def test_the_same_bytes_for_one_worker_or_two(project):
    write_some(project)
    outputs = []
    for workers in (1, 2):
        context = run("prepare", section(CLEAN, 3), project / f"out{workers}", machine=Machine(workers=workers))
        outputs.append(contents(context.output))
    assert outputs[0] == outputs[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_an_interrupted_run_is_resumed_to_the_same_bytes(project, monkeypatch, number):
    write_some(project)
    whole = contents(run("prepare", section(CLEAN, 3), project / "straight").output)
    real, calls = executor.run, []

    def interrupted(what, *arguments, **options):
        if len(calls) == number:
            raise KeyboardInterrupt
        calls.append(what)
        return real(what, *arguments, **options)

    monkeypatch.setattr(executor, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("prepare", section(CLEAN, 3), project / "resumed")
    monkeypatch.setattr(executor, "run", real)
    (project / "resumed/prepare").rename(project / "resumed/broken")
    assert contents(run("prepare", section(CLEAN, 3), project / "resumed").output) == whole
