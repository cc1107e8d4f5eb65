"""A mixture keeps its proportions, and its corpora stay apart."""

import fractions
import itertools
import json
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import small
from tiny_training import LENGTH, section, trained, write_tokens

from llmrecipe import Corpus, Fraction, Mixture, Part, evolve
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.order import BLOCK, SampleOrder, deal, divide
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe import checks
from llmrecipe.recipe.measure import Perplexity
from llmrecipe.recipe.source import JsonlFiles

weights = st.lists(st.integers(1, 100), min_size=1, max_size=5).map(tuple)


def corpus(name: str) -> Corpus:
    return Corpus(name=name, source=JsonlFiles(paths=(f"data/{name}.jsonl",)))


def mixed(**weights: float):
    parts = tuple(Part(corpus=corpus(name), weight=weight) for name, weight in weights.items())
    return small(text=Mixture(parts=parts))


@given(weights=weights, seed=st.integers(0, 2**32 - 1), block=st.integers(0, 10**7))
def test_any_thousand_samples_in_a_row_keep_the_proportions(weights, seed, block):
    corpora = np.concatenate([deal(weights, seed, number)[0] for number in (block, block + 1)])
    for corpus, weight in enumerate(weights):
        drawn = np.concatenate([[0], np.cumsum(corpora == corpus)])
        in_each_window = drawn[BLOCK:] - drawn[:-BLOCK]
        share = fractions.Fraction(weight, sum(weights)) * BLOCK
        assert max(abs(int(count) - share) for count in set(in_each_window)) <= 2


@given(weights=weights, count=st.integers(0, 10**9))
def test_whole_parts_add_up_and_none_is_a_whole_one_off(weights, count):
    parts = divide(count, weights)
    assert sum(parts) == count
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - fractions.Fraction(count * weight, sum(weights))) < 1


@settings(max_examples=30)
@given(weights=weights, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_every_corpus_is_read_in_epochs_of_its_own(weights, seed, data):
    sizes = data.draw(st.lists(st.integers(1, 300), min_size=len(weights), max_size=len(weights)))
    order = SampleOrder(sizes=tuple(sizes), shares=weights, seed=seed)
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
    order = SampleOrder(sizes=(700,), shares=(3.0,), seed=5)
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
    with pytest.raises(StageError, match="shares: 1 for the 2 corpora"):
        TokenMixture.open(directories, "train", [1.0])
    card = json.loads((directories[1] / "card.json").read_text())
    size = (directories[1] / "card.json").stat().st_size
    (directories[1] / "card.json").write_text(json.dumps(card | {"vocab_size": 501}).ljust(size))
    with pytest.raises(StageError, match="another tokenizer than"):
        TokenMixture.open(directories, "train", [1.0, 1.0])


def test_each_corpus_has_its_own_stages_and_the_run_reads_them_all():
    stages = {stage.name: stage for stage in plan([mixed(web=3, books=1)]).stages}
    assert stages["web-books-bpe-512-tokenizer"].inputs == {
        "documents.web": "artifacts/web/prepare/documents",
        "documents.books": "artifacts/books/prepare/documents",
    }
    for name in ("web", "books"):
        assert stages[f"{name}-web-books-bpe-512-tokenize"].inputs == {
            "documents": f"artifacts/{name}/prepare/documents",
            "tokenizer": "artifacts/web-books-bpe-512/tokenizer/tokenizer",
        }
    tokens = {f"tokens.{name}": f"artifacts/{name}-web-books-bpe-512/tokenize/tokens" for name in ("web", "books")}
    (mix,) = (stage for stage in stages.values() if stage.kind == "mix")
    assert (mix.inputs, mix.section.shares) == (tokens, (3.0, 1.0))
    for name in ("small-model-train", "small-model-w4a16-quantize", "small-model-perplexity"):
        assert (tokens | {"mixture": f"{mix.output}/mixture"}).items() <= stages[name].inputs.items()


def test_weights_change_no_section_but_that_of_the_mixture():
    one, other = (plan([mixed(web=weight, books=1)]) for weight in (3, 4))
    changed = {a.kind for a, b in zip(one.stages, other.stages, strict=True) if a != b}
    assert changed == {"mix"}


def test_mixtures_that_can_not_work_are_refused():
    def found(recipe) -> dict[str, str]:
        return {violation.path: violation.reason for violation in checks.violations(recipe)}

    assert found(mixed(web=499, books=1)) == {}
    too_small = found(mixed(web=500, books=1))
    assert "1 of 501 is less than 1 in 500 sequences" in too_small["small.models[0].text.parts[1].weight"]
    twice = Mixture(parts=(Part(corpus=corpus("web")), Part(corpus=corpus("web"))))
    assert "'web' twice" in found(small(text=twice))["small.models[0].text.parts[1].corpus"]
    empty = evolve(corpus("books"), heldout=Fraction(0.0))
    bad = small(text=Mixture(parts=(Part(corpus=corpus("web")), Part(corpus=empty))))
    assert list(found(bad)) == ["small.models[0].text.parts[1].corpus.heldout"]
    short = evolve(mixed(web=3, books=1), measures=(Perplexity(max_tokens=4 * 32 - 1),))
    assert "use at least 128" in found(short)["small.measures[0].max_tokens"]


@pytest.mark.slow
def test_a_run_reads_its_corpora_in_proportion(tmp_path):
    directories = [
        write_tokens(tmp_path / name, train=count, heldout=200) for name, count in (("a", 3000), ("b", 1000))
    ]
    what = section()
    result = trained(what, directories, tmp_path / "scratch", shares=(3.0, 1.0))

    samples = 10 * what.training.global_batch_size
    order = result.job.open_tokens("train").order(LENGTH, what.training.seed)
    assert order.drawn(samples) == [60, 20]
    assert order.sizes == (46, 15)
    assert result.metrics[-1]["step"] == 10
    assert Path(result.checkpoint).exists()
