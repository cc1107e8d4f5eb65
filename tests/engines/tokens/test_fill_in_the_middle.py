"""Documents with their middle last: nothing is lost, and nothing but seed, epoch and sequence decides."""

from collections import Counter

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import LENGTH, NETWORK, SPECIAL_TOKENS, VOCAB_SIZE, section, trained, write_tokens

from llmrecipe import FillInTheMiddle, Machine
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.fill_in_the_middle import Rearrangement
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError

END, PREFIX, MIDDLE, SUFFIX = 0, 97, 98, 99

sequences = st.lists(st.integers(0, 9), min_size=7, max_size=120).map(np.array)
shares = st.floats(0, 1)


def rearrangement(seed: int = 0, **options: float) -> Rearrangement:
    ids = (PREFIX, MIDDLE, SUFFIX)
    return Rearrangement(options=FillInTheMiddle(**options), token_ids=ids, end_of_text_id=END, seed=seed)


def documents(tokens) -> list[list[int]]:
    """What stands between the ends of documents."""
    found = [[]]
    for token in np.asarray(tokens).tolist():
        if token == END:
            found.append([])
        else:
            found[-1].append(token)
    return found


def parts(document: list[int]) -> list[list[int]]:
    """What follows the first, second and third sentinel."""
    found = []
    for token in document:
        if token in (PREFIX, MIDDLE, SUFFIX):
            found.append([])
        else:
            found[-1].append(token)
    return found


def test_each_way_of_cutting_two_tokens_is_as_likely_as_its_cuts():
    tokens = np.array([11, 12, END, END, END, END])
    prefix_first = {
        (PREFIX, SUFFIX, 11, 12, MIDDLE): 1,
        (PREFIX, SUFFIX, 12, MIDDLE, 11): 2,
        (PREFIX, SUFFIX, MIDDLE, 11, 12): 2,
        (PREFIX, 11, SUFFIX, 12, MIDDLE): 1,
        (PREFIX, 11, SUFFIX, MIDDLE, 12): 2,
        (PREFIX, 11, 12, SUFFIX, MIDDLE): 1,
    }
    suffix_first = {
        (PREFIX, SUFFIX, 11, 12, MIDDLE): 1,
        (PREFIX, SUFFIX, 12, MIDDLE, 11): 3,
        (PREFIX, SUFFIX, MIDDLE, 11, 12): 5,
    }
    for share, expected in ((0.0, prefix_first), (1.0, suffix_first)):
        always = rearrangement(rate=1.0, suffix_first_share=share)
        found = Counter(tuple(always.of(tokens, epoch=0, window=window).tolist()) for window in range(1800))
        assert found.keys() == {(*ways, END) for ways in expected}
        for ways, cuts in expected.items():
            p = cuts / 9
            assert abs(found[(*ways, END)] - 1800 * p) <= 4 * (1800 * p * (1 - p)) ** 0.5


@given(tokens=sequences, rate=st.floats(0.01, 1), share=shares, window=st.integers(0, 10**9))
def test_undone_every_document_is_what_it_was_but_for_the_end_that_is_cut_off(tokens, rate, share, window):
    before = tokens.copy()
    result = rearrangement(rate=rate, suffix_first_share=share).of(tokens, epoch=3, window=window)

    np.testing.assert_array_equal(tokens, before)
    assert (len(result), result.dtype) == (len(tokens), tokens.dtype)
    *whole, last = documents(result)
    originals = documents(tokens)
    for document, original in zip(whole, originals, strict=False):
        if document[:1] == [PREFIX]:
            prefix, suffix, middle = parts(document)
            document = prefix + middle + suffix
        assert document == original
    original = originals[len(whole)]
    if last[:1] == [PREFIX]:
        prefix, suffix, middle = [*parts(last), [], []][:3]
        assert original[: len(prefix + middle)] == prefix + middle
        assert not middle or original[len(original) - len(suffix) :] == suffix
        assert "".join(map(chr, suffix)) in "".join(map(chr, original[len(prefix) :]))
    else:
        assert last == original[: len(last)]


def test_the_shares_of_documents_are_within_binomial_bounds():
    length, count = 60, 0
    tokens = np.tile([*range(1, length + 1), END], 20)
    some = rearrangement(rate=0.3, suffix_first_share=0.4)
    rearranged, suffix_first = 0, 0
    for window in range(200):
        # The last may be cut off.
        for document in documents(some.of(tokens, epoch=0, window=window))[:15]:
            count += 1
            rearranged += document[0] == PREFIX
            suffix_first += document[:2] == [PREFIX, SUFFIX]
    assert abs(rearranged - 0.3 * count) <= 4 * (count * 0.3 * 0.7) ** 0.5
    # An empty prefix that comes first looks the same.
    share = 0.4 + 0.6 * (1 - (length / (length + 1)) ** 2)
    assert abs(suffix_first - share * rearranged) <= 4 * (rearranged * share * (1 - share)) ** 0.5


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 2), epoch=st.integers(0, 100), window=st.integers(0, 10**9))
def test_what_is_rearranged_depends_on_seed_epoch_and_sequence_alone(seed, epoch, window):
    tokens = np.tile([*range(1, 41), END], 20)
    key = {"seed": seed, "epoch": epoch, "window": window}

    def result(seed, **place):
        return rearrangement(seed).of(tokens, **place).tolist()

    assert result(**key) == result(**key)
    for name in key:
        assert result(**key | {name: key[name] + 1}) != result(**key)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_tokens(tmp_path_factory.mktemp("tokens") / "tokens", train=4_000, heldout=1_000)


def job(tokens, **names):
    from llmrecipe.engines.nanotron.job import Job

    objective = attrs.evolve(section().objective, fill_in_the_middle=FillInTheMiddle(rate=0.9, **names))
    what = attrs.evolve(section(), objective=objective)
    told = {
        "vocab_size": VOCAB_SIZE,
        "rows": VOCAB_SIZE,
        "tokenizer": None,
        "end_of_text_id": 0,
        "state": "",
        "events": "",
        "math_library": None,
        "compiled": False,
        "start": None,
        "resume": None,
    }
    read = {"tokens": (str(tokens),), "shares": (1.0,), "modules": ()}
    return Job(section=what, network=NETWORK, machine=Machine(device="cpu"), name="t", **read, **told)


def shard(rank: int, size: int, micro: int, *, pipeline: int | None = None):
    from llmrecipe.engines.nanotron.data import Shard

    place = {"pipeline_rank": pipeline or 0, "input_rank": 0, "output_rank": 0 if pipeline is None else 2}
    return Shard(data_rank=rank, data_size=size, micro_batch_size=micro, **place)


def test_every_layout_reads_the_same_rearranged_documents_into_the_next_epoch(tokens):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.build import reader_of
    from llmrecipe.engines.nanotron.data import TrainingBatches

    files = TokenMixture.open([tokens], "train", [1.0])
    by_name = Rearrangement(
        options=FillInTheMiddle(rate=0.9), token_ids=tuple(SPECIAL_TOKENS.values()), end_of_text_id=0, seed=1
    )
    samples = files.order(LENGTH, seed=1).samples(48, 32)
    plain = np.stack([files.window(window, LENGTH) for window, _ in samples])
    expected = np.stack(
        [by_name.of(row, epoch=epoch, window=window) for row, (window, epoch) in zip(plain, samples, strict=True)]
    )
    assert {epoch for _, epoch in samples} == {0, 1}
    assert (expected != plain).any(1).sum() > 24
    for size, micro in ((1, 8), (2, 2), (4, 1)):
        rows = {}
        for rank in range(size):
            batches = TrainingBatches(reader_of(job(tokens), "train", shard(rank, size, micro)), seed=1, consumed=48)
            for index in range(32 // (size * micro)):
                batch = next(batches)
                for row, number in enumerate(batch["samples"]):
                    assert number == 48 + (index * size + rank) * micro + row
                    rows[number] = [*batch["input_ids"][row].tolist(), batch["label_ids"][row, -1].item()]
        assert [rows[48 + row] for row in range(32)] == expected.tolist()


def test_the_ranks_of_a_pipeline_read_parts_of_the_same_sequences_and_heldout_text_stays_as_it_is(tokens):
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.build import reader_of

    samples = [(5, 0), (3, 1)]
    first, between, last = (
        reader_of(job(tokens), "train", shard(0, 1, 2, pipeline=rank)).read(samples) for rank in range(3)
    )
    inputs, labels = first["input_ids"], last["label_ids"]
    assert (inputs[:, 1:] == labels[:, :-1]).all()
    assert (first["input_mask"] == (inputs != 0)).all()
    assert {type(part).__name__ for part in between.values()} == {"TensorPointer"}

    heldout = TokenMixture.open([tokens], "heldout", [1.0])
    read = reader_of(job(tokens), "heldout", shard(0, 1, 2)).read(samples)["input_ids"]
    np.testing.assert_array_equal(read, [heldout.window(window, LENGTH)[:-1] for window, _ in samples])


def test_tokens_that_the_tokenizer_lacks_are_named_before_a_training_starts(tokens, tmp_path):
    what = job(tokens, middle_token="<hole>").section
    with pytest.raises(StageError, match=r"no special token '<hole>'.* are free: '<\|fim_middle\|>', .*name three of"):
        trained(what, tokens, tmp_path)
    assert list(tmp_path.iterdir()) == []
