"""Attention within documents and windows is torch's with a whole mask, and holds none."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from live_tensors import Live
from torch.nn import functional

from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.packing import PackedDocuments

bootstrap.load("cpu")

from llmrecipe.engines.nanotron.networks import spans  # noqa: E402
from llmrecipe.engines.nanotron.networks.micro_batch import MicroBatchInFlight  # noqa: E402

HEADS, GROUPS, DIM = 4, 2, 8


def made(tokens: int) -> list[torch.Tensor]:
    return [torch.randn(tokens, heads, DIM, requires_grad=True) for heads in (HEADS, GROUPS, GROUPS)]


def whole(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    """With a mask of all tokens by all."""
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    output = functional.scaled_dot_product_attention(query, key, value, attended, enable_gqa=True)
    return output[0].transpose(0, 1)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    window=st.one_of(st.none(), st.integers(1, 45)),
    piece=st.integers(1, 30),
    seed=st.integers(0, 1000),
)
def test_each_token_reads_its_document_and_its_window(lengths, window, piece, seed):
    torch.manual_seed(seed)
    tokens = sum(lengths)
    # Place by place: the same document, not later, and not too far.
    documents = [number for number, length in enumerate(lengths) for _ in range(length)]
    attended = torch.tensor(
        [
            [documents[q] == documents[k] and 0 <= q - k < (window or tokens) for k in range(tokens)]
            for q in range(tokens)
        ]
    )
    given = made(tokens)
    gradient = torch.randn(tokens, HEADS, DIM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "PIECE", piece)
        found = spans.spanned_attention(*given, spans.Spans(lengths, window, torch.device("cpu")))
    expected = whole(*given, attended)

    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found, given, gradient), torch.autograd.grad(expected, given, gradient), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_the_documents_of_a_batch_are_those_of_its_sequences():
    begins = torch.tensor([[0, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    assert PackedDocuments(begins).lengths == [2, 2, 1, 3]
    reach = MicroBatchInFlight().reach(~begins, restart_at_documents=True, window=None)
    assert reach.spans.lengths == [2, 2, 1, 3]
    assert reach.spans.bounds.tolist() == [0, 2, 4, 5, 8]
    assert reach.spans.bounds.dtype == torch.int32
    windowed = MicroBatchInFlight().reach(~begins, restart_at_documents=False, window=3)
    assert windowed.spans.lengths == [4, 4]
    # Nothing that they could not read.
    assert MicroBatchInFlight().reach(~begins, restart_at_documents=False, window=4).spans is None


def peak(length: int, *, documents: int | None, window: int | None) -> int:
    """Bytes at the most of attention and its gradients, over sequences of which each document has so many tokens."""
    mask = torch.ones(1, length, dtype=torch.bool)
    if documents is not None:
        mask[:, ::documents] = False
    given = made(length)
    with Live() as live:
        reach = MicroBatchInFlight().reach(mask, restart_at_documents=documents is not None, window=window)
        spans.spanned_attention(*given, reach.spans).sum().backward()
    return live.peak


@pytest.mark.parametrize(
    ("documents", "window"),
    [(40, None), (900, None), (None, 256), (3000, 256)],
    ids=["short", "long", "window", "both"],
)
def test_memory_grows_with_the_length_and_not_with_its_square(documents, window):
    short, long = (peak(length, documents=documents, window=window) for length in (3000, 12_000))
    assert long < 4.2 * short
    assert long < 12_000 * 12_000


def test_on_a_gpu_one_kernel_is_told_where_documents_begin_and_how_far_tokens_read(monkeypatch):
    """There is none here: what it would be given, and that this means the same by its documentation."""
    called = []
    monkeypatch.setattr(spans, "varlen_attn", lambda *arguments, **options: called.append((arguments, options)))
    on_gpu = [
        SimpleNamespace(
            device=torch.device("cuda"),
            dtype=torch.bfloat16,
            shape=(8, heads, DIM),
            repeat_interleave=lambda times, dim, heads=heads: ("repeated", heads, times, dim),
        )
        for heads in (HEADS, GROUPS, GROUPS)
    ]
    for window, size in ((None, (-1, 0)), (3, (2, 0))):
        of = spans.Spans([5, 3], window, torch.device("cpu"))
        spans.spanned_attention(*on_gpu, of)
        (_, key, value, begins, same, longest, again), options = called.pop()
        assert key == value == ("repeated", GROUPS, 2, 1)
        assert begins is same
        assert begins.tolist() == [0, 5, 8]
        assert (longest, again, options) == (5, 5, {"window_size": size})
