"""Cleaners that compare documents: what they find, and that what is held out wins."""

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from corpora import contents, read_documents, run, write_jsonl
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer
from strategies import small

from llmrecipe import Machine
from llmrecipe.engines.datatrove.cleaners import comparing, words
from llmrecipe.engines.datatrove.executors.local import LocalExecutor
from llmrecipe.engines.datatrove.split import split_of
from llmrecipe.errors import StageError
from llmrecipe.recipe import checks
from llmrecipe.recipe.cleaning import FixUnicode
from llmrecipe.recipe.deduplication import Decontaminate, ExactDedup, MinHashDedup, SentenceDedup
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.sections import PrepareSection

HELDOUT = 0.3


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(project: Path, clean, texts=None, folder="out", shards=3, **options):
    """The texts of each split, the metrics and the examples."""
    if texts is not None:
        write_jsonl(project / "data.jsonl", texts)
    source = JsonlFiles(paths=("data.jsonl",))
    section = PrepareSection(source=source, clean=clean, heldout=Fraction(HELDOUT), shards=shards)
    output = run("prepare", section, project / folder, **options).output
    splits = {name: [d["text"] for d in read_documents(output / "documents", name)] for name in ("train", "heldout")}
    metrics = json.loads((output / "metrics.json").read_text())
    return splits, metrics, [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]


def prose(generator: random.Random, count: int) -> list[str]:
    return ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(count)]


def sentences(generator: random.Random, count: int) -> list[str]:
    return [" ".join(prose(generator, 6)).capitalize() + "." for _ in range(count)]


def in_split(split: str, make) -> str:
    """The first text that `make` gives which falls into a split."""
    return next(text for text in iter(make, None) if split_of(text, HELDOUT) == split)


def jaccard(one: str, other: str) -> float:
    grams = [set(zip(*(text.split()[start:] for start in range(5)), strict=False)) for text in (one, other)]
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])


def near_duplicates() -> tuple[list[str], list[list[str]]]:
    """Shuffled texts, and the clusters that they are from: an original with others of a similarity from 0.2 to 0.95."""
    generator = random.Random(1)
    clusters = []
    for _ in range(40):
        original = prose(generator, 104)
        # With so many of 100 n-grams shared; what follows is another text.
        shared = [round(200 * similarity / (1 + similarity)) for similarity in (0.95, 0.9, 0.85, 0.2)]
        clusters.append([" ".join(original[: count + 4] + prose(generator, 100 - count)) for count in (100, *shared)])
    texts = list(itertools.chain(*clusters))
    generator.shuffle(texts)
    return texts, clusters


CLEANER = MinHashDedup(bands=30, threshold=0.6)


def test_no_near_duplicate_crosses_the_splits_and_the_held_out_one_stays(project):
    texts, clusters = near_duplicates()
    heldout = {text for text in texts if split_of(text, HELDOUT) == "heldout"}
    crossing = [
        pair
        for cluster in clusters
        for pair in itertools.combinations(cluster, 2)
        if jaccard(*pair) >= CLEANER.threshold and len(heldout & set(pair)) == 1
    ]
    assert len(crossing) > 50

    splits, metrics, examples = prepared(project, (CLEANER,), texts)

    assert set(splits["heldout"]) <= heldout
    for one, other in itertools.product(splits["train"], splits["heldout"]):
        assert jaccard(one, other) < CLEANER.threshold
    left = {*splits["train"], *splits["heldout"]}
    for *near, far in clusters:
        # One of each cluster stays, and whatever is unlike it.
        (stays,) = left & set(near)
        assert stays in heldout or not heldout & set(near)
        assert far in left
    assert metrics["dropped"]["minhash_dedup"] == 3 * 40
    assert len(examples) == 20


@pytest.mark.slow
def test_near_duplicates_are_the_same_for_any_number_of_workers(project):
    write_jsonl(project / "data.jsonl", near_duplicates()[0])
    outputs = []
    for workers in (1, 2):
        prepared(project, (CLEANER,), folder=f"out{workers}", machine=Machine(workers=workers))
        outputs.append(contents(project / f"out{workers}/prepare"))
    assert outputs[0] == outputs[1]


def test_equal_texts_never_cross_the_splits_even_if_they_were_split_before_they_were_equal(project):
    texts = [" ".join(prose(random.Random(number), 9)) for number in range(40)]
    broken = [f"{text}\x00" for text in texts]
    pairs = list(zip(texts, broken, strict=True))
    assert any(split_of(text, HELDOUT) != split_of(other, HELDOUT) for text, other in pairs)

    splits, _, _ = prepared(project, (SentenceDedup(), FixUnicode(), ExactDedup()), [*texts, *broken])

    assert sorted([*splits["train"], *splits["heldout"]]) == sorted(texts)
    assert set(splits["heldout"]) == {pair[0] for pair in pairs if "heldout" in {split_of(t, HELDOUT) for t in pair}}


@pytest.mark.parametrize(("name", "shards"), [("dd [v2]", 1), ("a?*[!x]", 3), ("s3::b", 3), ("memory:", 1)])
def test_duplicates_are_found_in_a_folder_of_any_name(tmp_path, monkeypatch, name, shards):
    generator = random.Random(5)
    span = " ".join(sentences(generator, 3))
    texts = [" ".join([*sentences(generator, 9), span]) for _ in range(8)]
    near = [*texts[0].split(), "more"]
    project = tmp_path / name
    project.mkdir()
    monkeypatch.chdir(project)
    clean = (ExactDedup(), MinHashDedup(), SentenceDedup(min_words=0), Decontaminate(heldout=True))

    _, metrics, _ = prepared(project, clean, [*texts, *texts[:5], " ".join(near)], shards=shards)

    assert metrics["dropped"]["exact_dedup"] == 5
    assert metrics["dropped"]["minhash_dedup"] == 1
    assert metrics["changed"]["sentence_dedup"] == 7


@pytest.mark.parametrize("cleaner", [ExactDedup(), MinHashDedup(), SentenceDedup()])
def test_a_task_whose_signatures_are_gone_is_an_error(project, monkeypatch, cleaner):
    write_jsonl(project / "data.jsonl", [" ".join(sentences(random.Random(number), 9)) for number in range(20)])
    finish = LocalExecutor.finish

    def finish_and_lose(self):
        finish(self)
        for lost in list(project.rglob("signatures/*/00001.*"))[-1:]:
            lost.unlink()

    monkeypatch.setattr(LocalExecutor, "finish", finish_and_lose)
    with pytest.raises(StageError, match="2 of the 3 files of signatures are there"):
        prepared(project, (cleaner,))


def test_a_span_of_sentences_stays_where_it_is_held_out_and_is_cut_elsewhere(project):
    generator = random.Random(2)
    span = sentences(generator, 3)

    def quoting():
        return " ".join([*sentences(generator, 4), *span, *sentences(generator, 4)])

    first = in_split("train", quoting)
    kept = in_split("heldout", quoting)
    short = in_split("train", lambda: " ".join([*sentences(generator, 1), *span]))
    others = [" ".join(sentences(generator, 8)) for _ in range(20)]

    splits, metrics, examples = prepared(project, (SentenceDedup(min_words=40),), [first, *others, short, kept])

    cut = first.replace(f"{' '.join(span)} ", "")
    assert cut in splits["train"]
    assert kept in splits["heldout"]
    assert {*splits["train"], *splits["heldout"]} == {cut, kept, *others}
    assert metrics["changed"]["sentence_dedup"] == metrics["dropped"]["sentence_dedup"] == 1
    # Six words and a full stop for each sentence.
    assert metrics["dropped_tokens"]["sentence_dedup"] == (3 + 4) * 7
    assert metrics["dropped_text_bytes"]["sentence_dedup"] == len(first) - len(cut) + len(short)
    assert {row["because"] for row in examples} == {"duplicate_sentences"}
    assert {row["text"][: 3 + len(span[0])] for row in examples} == {f">>> {span[0]}"[: 3 + len(span[0])]}


def test_of_equal_spans_in_one_split_the_first_stays(project):
    generator = random.Random(3)
    span = " ".join(sentences(generator, 3))
    one, other = (in_split("train", lambda: " ".join([*sentences(generator, 9), span])) for _ in range(2))
    heldout = in_split("heldout", lambda: " ".join(sentences(generator, 5)))
    splits, _, _ = prepared(project, (SentenceDedup(min_words=0),), [one, other, heldout], shards=1)
    assert splits["train"] == [one, other.removesuffix(f" {span}")]


def test_training_documents_that_quote_an_evaluation_set_go_and_held_out_ones_stay(project):
    generator = random.Random(4)
    question = prose(generator, 20)
    write_jsonl(project / "questions.jsonl", [" ".join(question), "too short"])
    quote = ", ".join(question[3:16]).title()
    contaminated = {
        split: in_split(split, lambda: " ".join([*prose(generator, 30), quote, *prose(generator, 30)]))
        for split in ("train", "heldout")
    }
    # Twelve words aren't thirteen.
    near = in_split("train", lambda: " ".join([*prose(generator, 30), *question[3:15], *prose(generator, 30)]))
    others = [" ".join(prose(generator, 50)) for _ in range(20)]

    cleaner = Decontaminate(against=(JsonlFiles(paths=("questions.jsonl",)),))
    splits, metrics, examples = prepared(project, (cleaner,), [*contaminated.values(), near, *others])

    assert contaminated["heldout"] in splits["heldout"]
    assert {*splits["train"], *splits["heldout"]} == {contaminated["heldout"], near, *others}
    assert metrics["dropped_because"]["decontaminate"] == {"against[0]": 1}
    assert [row["because"] for row in examples] == [f"against[0]: {' '.join(question[3:16])}"]


def test_training_documents_that_quote_held_out_ones_go_if_asked(project):
    generator = random.Random(5)
    heldout = in_split("heldout", lambda: " ".join(prose(generator, 40)))
    quoting = in_split("train", lambda: f"{' '.join(prose(generator, 30))} {heldout[-111:]}")
    others = [" ".join(prose(generator, 50)) for _ in range(20)]
    splits, metrics, _ = prepared(project, (Decontaminate(heldout=True),), [quoting, *others, heldout])
    assert {*splits["train"], *splits["heldout"]} == {heldout, *others}
    assert metrics["dropped_because"]["decontaminate"] == {"heldout": 1}


def test_an_evaluation_set_of_short_texts_is_an_error(project):
    write_jsonl(project / "questions.jsonl", ["six words are not enough here"])
    cleaner = Decontaminate(against=(JsonlFiles(paths=("questions.jsonl",)),))
    with pytest.raises(
        StageError, match=r"^corpus\.clean\[0\]\.against\[0\]: no text of it has 13 words; use a smaller `ngram`"
    ):
        prepared(project, (cleaner,), [" ".join(prose(random.Random(6), 30))])


class AtWhiteSpace(WordTokenizer):
    def word_tokenize(self, text):
        return text.split()

    sent_tokenize = span_tokenize = word_tokenize


def test_long_texts_are_compared_in_pieces_as_if_they_were_whole(monkeypatch, tmp_path):
    text = Path(random.__file__).read_text()[:20_000]
    config = MinhashConfig(num_buckets=4, hashes_per_bucket=2, hash_config=HashConfig(hash_fc="sha1"))
    whole = MinhashDedupSignature(str(tmp_path), config, language=AtWhiteSpace())
    expected = whole.get_shingles(text)
    monkeypatch.setattr(words, "_PIECE", 500)
    monkeypatch.setattr(comparing.MinHashSignature, "_AT_ONCE", 100)
    ours = comparing.MinHashSignature(tmp_path, config)
    assert len(list(words.pieces(text))) > 10
    assert np.array_equal(ours.get_shingles(text), expected)
    assert ours.get_signature(expected) == whole.get_signature(expected)

    tokenizer = words.PiecewiseTokenizer()
    spans = tokenizer.span_tokenize(text)
    assert "".join(text[a:b] for (_, a), (_, b) in itertools.pairwise([(0, 0), *spans])).strip() == text.strip()
    assert "".join(piece for _, piece in words.pieces("x" * 5000)) == "x" * 5000


def test_a_word_that_never_ends_is_cut_after_a_sign_or_where_it_must_be():
    text = f"{'x' * 2500} and \n{'y' * 990},{'z' * 20} {'w' * 1000}"
    cut = list(words.short_pieces(text))
    assert [piece for _, piece in cut] == [
        "x" * 1000, "x" * 1000, "x" * 500, " and \n" + "y" * 990 + ",", "z" * 20, f" {'w' * 1000}"
    ]  # fmt: skip
    assert all(text.startswith(piece, start) for start, piece in cut)


@pytest.mark.parametrize(
    ("cleaner", "path", "reason"),
    [
        (Decontaminate(), "against", "compares with nothing"),
        (
            MinHashDedup(bands=2, threshold=0.3),
            "threshold",
            r"1 in each come closest, with 0.50; use that, or bands = 3",
        ),
    ],
)
def test_a_cleaner_that_can_not_do_what_it_says_is_refused(cleaner, path, reason):
    (violation,) = checks.violations(small(text__clean=(cleaner,)))
    assert violation.path == f"small.models[0].text.clean[0].{path}"
    assert re.search(reason, violation.reason)


def test_a_change_after_the_split_needs_another_comparison():
    clean = (MinHashDedup(), FixUnicode())
    (violation,) = checks.violations(small(text__clean=clean))
    assert violation.path == "small.models[0].text.clean[1]"
    assert "put ExactDedup() after it" in violation.reason
    assert checks.violations(small(text__clean=(*clean, ExactDedup()))) == []
    apart = JsonlFiles(paths=("heldout.jsonl",))
    assert checks.violations(small(text__clean=clean, text__heldout=apart)) == []


def test_spans_may_be_cut_after_near_duplicates_are_dropped():
    assert checks.violations(small(text__clean=(MinHashDedup(), SentenceDedup()))) == []


@pytest.mark.parametrize(("threshold", "bands", "hashes"), [(0.72, 14, 8), (0.75, 14, 9), (0.5, 20, 4), (0.8, 9, 10)])
def test_the_threshold_decides_the_hashes_of_a_band(threshold, bands, hashes):
    cleaner = MinHashDedup(threshold=threshold, bands=bands)
    assert cleaner.hashes_per_band == hashes
    # No other number comes closer.
    distance = {count: abs((1 / bands) ** (1 / count) - threshold) for count in range(1, 30)}
    assert distance[hashes] == min(distance.values())
