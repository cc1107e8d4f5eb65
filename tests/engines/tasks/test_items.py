"""In which order items are read, and what is put into a batch."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrecipe.engines.tasks.items import UNLABELLED, Item, Padding, order, shared, steps

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=300)


def items_of(sizes):
    return [Item(input_ids=[1] * size, labels=index, example=index) for index, size in enumerate(sizes)]


@given(lengths, st.integers(1, 9), st.integers(0, 99), st.integers(0, 3), st.booleans())
def test_an_epoch_reads_every_item_once(sizes, size, seed, epoch, by_length):
    found = order(sizes, size, seed, epoch, by_length=by_length)
    assert sorted(found) == list(range(len(sizes)))
    assert found == order(sizes, size, seed, epoch, by_length=by_length)


def test_items_of_like_length_are_read_together_and_pad_less():
    sizes = [index * 37 % 100 + 1 for index in range(1000)]

    def padded(by_length):
        found = order(sizes, 10, 0, 0, by_length=by_length)
        return sum(10 * max(sizes[index] for index in found[start : start + 10]) for start in range(0, 1000, 10))

    assert padded(True) < 1.05 * sum(sizes)
    assert padded(False) > 1.5 * sum(sizes)


def test_epochs_and_steps_by_length_come_in_another_order_each_time():
    sizes = list(range(100))
    first, second = (order(sizes, 10, 0, epoch, by_length=True) for epoch in (0, 1))
    assert first != second
    means = [sum(first[start : start + 10]) / 10 for start in range(0, 100, 10)]
    assert means != sorted(means)


@given(lengths, st.integers(1, 9), st.integers(0, 60), st.booleans())
def test_a_run_that_goes_on_reads_what_it_would_have_read(sizes, size, first, by_length):
    items = items_of(sizes)

    def taken(start, count):
        read = steps(items, size, 7, by_length=by_length, first=start)
        return [[item.example for item in next(read)] for _ in range(count)]

    assert taken(0, first + 3)[first:] == taken(first, 3)


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 3))
def test_ranks_share_a_step_and_compute_equally_often(count, size, ranks):
    items = items_of([3] * count)
    rounds = -(-count // (size * ranks))
    parts = [shared(items, size, ranks, rank, rounds) for rank in range(ranks)]
    assert {len(part) for part in parts} == {rounds}
    counted = [item.example for part in parts for mine, fillers in part for item in mine[: len(mine) - fillers]]
    assert sorted(counted) == list(range(count))


def test_shorter_sequences_are_filled_up_and_what_fills_counts_for_nothing():
    short = Item(input_ids=[5], labels=[1], token_types=[2])
    long = Item(input_ids=[6, 7], labels=[0, UNLABELLED], token_types=[3, 3])
    batch = Padding(token_id=9, has_labels_by_token=True).batch([short, long], fillers=1)
    assert batch["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["token_type_ids"].tolist() == [[2, 0], [3, 3]]
    assert batch["labels"].tolist() == [[1, UNLABELLED], [0, UNLABELLED]]
    assert batch["counts"].tolist() == [True, False]


def test_numbers_are_labels_of_their_own_type():
    batch = Padding(token_id=0, has_labels_by_token=False, labels_type=torch.float32).batch(
        [Item(input_ids=[1], labels=[0.0, 1.0])]
    )
    assert batch["labels"].dtype == torch.float32
