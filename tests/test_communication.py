"""What ranks exchange: overlapped or not, in whatever buckets, it changes no result; and it is measured."""

from pathlib import Path

import attrs
import pytest
import torch
from tiny_training import MODEL, column, section, trained, write_tokens

from llmrecipe import Parallelism
from llmrecipe.engines.nanotron import weights


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("data") / "tokens", train=20_000, heldout=2_000)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["all_reduce", "reduce_scatter"])
def test_overlapped_tensor_parallelism_trains_alike(tokens, tmp_path, mode):
    # Queries in groups (4 heads for 2 of keys), and rows of the output layer in the embedding.
    model = attrs.evolve(MODEL, tie_word_embeddings=True)
    plain = Parallelism(tensor=2, micro_batch_size=4, tensor_parallel_mode=mode)
    one = trained(section(plain, model), tokens, tmp_path / "plain")
    other = trained(section(attrs.evolve(plain, async_tensor_parallel=True), model), tokens, tmp_path / "overlapped")

    assert column(other, "loss") == pytest.approx(column(one, "loss"), rel=1e-5)
    assert column(other, "grad_norm") == pytest.approx(column(one, "grad_norm"), rel=1e-4)
    assert_close(other, one, atol=1e-4)


def assert_close(result, expected, atol):
    found = weights.read_whole(result.checkpoint)
    for name, weight in weights.read_whole(expected.checkpoint).items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=atol)
