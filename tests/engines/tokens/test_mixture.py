"""A mixture keeps its proportions, and its corpora stay apart."""

import itertools
import json
from fractions import Fraction
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SMALL
from tiny_training import LENGTH, section, trained, write_tokens

from llmrecipe import Corpus, JsonlFiles, Mixture, Part, Perplexity
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.order import BLOCK, SampleOrder, deal, divide
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks

weights = st.lists(st.integers(1, 100), min_size=1, max_size=5).map(tuple)


def corpus(name: str) -> Corpus:
    return Corpus(name=name, source=JsonlFiles(paths=(f"data/{name}.jsonl",)))


def mixed(**weights: float):
    parts = tuple(Part(corpus=corpus(name), weight=weight) for name, weight in weights.items())
    return attrs.evolve(SMALL, corpus=Mixture(parts=parts))


@given(weights=weights, seed=st.integers(0, 2**32 - 1), block=st.integers(0, 10**7))
def test_any_thousand_samples_in_a_row_keep_the_proportions(weights, seed, block):
    corpora = np.concatenate([deal(weights, seed, number)[0] for number in (block, block + 1)])
    for corpus, weight in enumerate(weights):
        drawn = np.concatenate([[0], np.cumsum(corpora == corpus)])
        in_each_window = drawn[BLOCK:] - drawn[:-BLOCK]
        share = Fraction(weight, sum(weights)) * BLOCK
        assert max(abs(int(count) - share) for count in set(in_each_window)) <= 2


@given(weights=weights, count=st.integers(0, 10**9))
def test_whole_parts_add_up_and_none_is_a_whole_one_off(weights, count):
    parts = divide(count, weights)
    assert sum(parts) == count
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(count * weight, sum(weights))) < 1


@settings(max_examples=30)
@given(weights=weights, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_every_corpus_is_read_in_epochs_of_its_own(weights, seed, data):
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=len(weights), max_size=len(weights)))
    order = SampleOrder(sizes=sizes, weights=weights, seed=seed)
    samples = order.windows(0, 2500)
    bounds = np.cumsum([0, *sizes])

    drawn = []
    for first, stop in itertools.pairwise(bounds):
        mine = [window for window in samples if first <= window < stop]
        drawn.append(len(mine))
        size = stop - first
        epochs = [mine[start : start + size] for start in range(0, len(mine) - size + 1, size)]
        assert all(sorted(epoch) == list(range(first, stop)) for epoch in epochs)
        if size > 20 and len(epochs) > 1:
            assert epochs[0] != epochs[1]
    assert order.drawn(2500) == drawn
    start, count = data.draw(st.integers(0, 2400)), data.draw(st.integers(1, 100))
    assert order.windows(start, count) == samples[start : start + count]
    assert attrs.evolve(order, seed=seed + 1).windows(0, 2500) != samples or max(sizes) == 1


def test_a_corpus_alone_is_read_in_permutations_of_numpys_generator():
    order = SampleOrder(sizes=[700], weights=[3.0], seed=5)
    expected = [*np.random.default_rng([5, 0]).permutation(700), *np.random.default_rng([5, 1]).permutation(700)]
    assert order.windows(0, 1400) == expected


def test_windows_hold_tokens_of_one_corpus(tmp_path):
    directories = [write_tokens(tmp_path / name, train=count, heldout=200) for name, count in (("a", 650), ("b", 330))]
    mixture = TokenMixture.open(directories, "train", [1.0, 1.0])
    rows = [np.fromfile(directory / "train/00000.ds", "<u2") for directory in directories]

    assert mixture.num_windows(LENGTH) == 10 + 5
    np.testing.assert_array_equal(mixture.window(9, LENGTH), rows[0][9 * LENGTH : 10 * LENGTH + 1])
    np.testing.assert_array_equal(mixture.window(10, LENGTH), rows[1][: LENGTH + 1])
    with pytest.raises(IndexError):
        mixture.window(15, LENGTH)


def test_corpora_that_do_not_go_together_are_refused(tmp_path):
    directories = [write_tokens(tmp_path / name, train=650, heldout=200) for name in "ab"]
    with pytest.raises(StageError, match="weights: 1 for the 2 corpora"):
        TokenMixture.open(directories, "train", [1.0])
    description = json.loads((directories[1] / "tokens.json").read_text())
    (directories[1] / "tokens.json").write_text(json.dumps(description | {"vocab_size": 501}).ljust(
        (directories[1] / "tokens.json").stat().st_size))  # fmt: skip
    with pytest.raises(StageError, match="another tokenizer than"):
        TokenMixture.open(directories, "train", [1.0, 1.0])


def test_each_corpus_has_its_own_stages_and_the_training_reads_them_all():
    stages = {stage.name: stage for stage in plan([mixed(web=3, books=1)]).stages}
    assert stages["small-tokenizer"].inputs == {
        "documents.web": "artifacts/web/prepare/documents",
        "documents.books": "artifacts/books/prepare/documents",
    }
    assert stages["small-books-tokenize"].inputs == {
        "documents": "artifacts/books/prepare/documents",
        "tokenizer": "artifacts/small/tokenizer/tokenizer",
    }
    tokens = {f"tokens.{name}": f"artifacts/small-{name}/tokenize/tokens" for name in ("web", "books")}
    for kind in ("pretrain", "quantize", "evaluate"):
        assert tokens.items() <= stages[f"small-{kind}"].inputs.items()
        assert stages[f"small-{kind}"].section.weights == (3.0, 1.0)


def test_weights_change_no_stage_before_the_training():
    one, other = (plan([mixed(web=weight, books=1)]) for weight in (3, 4))
    changed = {a.kind for a, b in zip(one.stages, other.stages, strict=True) if a != b}
    assert changed == {"pretrain", "quantize", "evaluate"}


def test_mixtures_that_can_not_work_are_refused():
    def found(recipe) -> dict[str, str]:
        return {violation.path: violation.reason for violation in checks.violations(recipe)}

    assert found(mixed(web=499, books=1)) == {}
    too_small = found(mixed(web=500, books=1))
    assert "1 of 501 is less than 1 in 500 sequences" in too_small["small.corpus.parts[1].weight"]
    twice = Mixture(parts=(Part(corpus=corpus("web")), Part(corpus=corpus("web"))))
    assert "'web' twice" in found(attrs.evolve(SMALL, corpus=twice))["small.corpus.parts[1].corpus"]
    empty = attrs.evolve(corpus("books"), heldout_fraction=0.0)
    bad = attrs.evolve(SMALL, corpus=Mixture(parts=(Part(corpus=corpus("web")), Part(corpus=empty))))
    assert list(found(bad)) == ["small.corpus.parts[1].corpus.heldout_fraction"]
    short = attrs.evolve(mixed(web=3, books=1), evaluation=(Perplexity(max_tokens=4 * 32 - 1),))
    assert "use at least 128" in found(short)["small.evaluation[0].max_tokens"]


@pytest.mark.slow
def test_a_training_reads_its_corpora_in_proportion(tmp_path):
    directories = [
        write_tokens(tmp_path / name, train=count, heldout=200) for name, count in (("a", 3000), ("b", 1000))
    ]
    what = attrs.evolve(section(), weights=(3.0, 1.0))
    result = trained(what, directories, tmp_path / "scratch")

    samples = 10 * what.training.global_batch_size
    order = result.job.open_tokens("train").order(LENGTH, what.training.seed)
    assert order.drawn(samples) == [60, 20]
    assert order.sizes == (46, 15)
    assert result.metrics[-1]["step"] == 10
    assert Path(result.checkpoint).exists()
