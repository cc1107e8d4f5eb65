"""Layers whose outputs lose least become sparsest, as many weights as were asked for become zero, and less is lost."""

import numpy as np
import pytest
import tiny_model
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import BertConfig, BertForMaskedLM, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM

from llmrecipe.engines.compression import allocation
from llmrecipe.engines.compression.allocation import allocated, measured, output_errors
from llmrecipe.engines.compression.oneshot import layers_of
from llmrecipe.recipe.prune import Magnitude, Measured, SparseGPT, Wanda

STEPS = allocation._STEPS
CPU = torch.device("cpu")
TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 320, (12, 32)))
POINTS = [0.3, 0.4, 0.5, 0.6, 0.7]
SIZES = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}

# Errors that grow, at three to six shares; not so large that differences vanish in rounding.
ERRORS = st.tuples(st.integers(1, 6), st.integers(3, 6)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1e3, width=32))
).map(lambda grown: grown.cumsum(axis=1))  # fmt: skip


def none_free(errors: np.ndarray) -> np.ndarray:
    return np.zeros(len(errors))


def costs_of(errors: np.ndarray) -> np.ndarray:
    """What each step costs, by hand: the slope is that of a segment in its middle, and changes evenly between them."""
    layers, points = errors.shape
    costs = np.empty((layers, STEPS))
    for layer in range(layers):
        slopes = [errors[layer, point + 1] - errors[layer, point] for point in range(points - 1)]
        for step in range(STEPS):
            place = min(max((step + 0.5) * (points - 1) / STEPS - 0.5, 0), points - 2)
            low = min(int(place), points - 3)
            costs[layer, step] = slopes[low] + (place - low) * (slopes[low + 1] - slopes[low])
            costs[layer, step] = max(costs[layer, : step + 1])
    return costs


@given(ERRORS)
def test_half_of_all_steps_are_taken_and_no_exchange_of_two_would_cost_less(errors):
    steps, costs = allocated(errors, none_free(errors)), costs_of(errors)
    assert ((steps >= 0) & (steps <= STEPS)).all()
    assert steps.sum() == len(errors) * STEPS // 2
    taken = [costs[layer, :count].max(initial=-np.inf) for layer, count in enumerate(steps)]
    left = [costs[layer, count:].min(initial=np.inf) for layer, count in enumerate(steps)]
    assert max(taken) <= min(left) + 1e-9 * costs.max()


@given(ERRORS, st.floats(1.01, 100), st.data())
def test_a_layer_that_loses_more_never_becomes_sparser(errors, factor, data):
    layer = data.draw(st.integers(0, len(errors) - 1))
    before = allocated(errors, none_free(errors))
    errors[layer] *= factor
    after = allocated(errors, none_free(errors))
    assert after[layer] <= before[layer]


@given(ERRORS)
def test_a_layer_that_loses_more_than_another_is_not_sparser(errors):
    both = np.concatenate([errors, 2 * errors])
    steps = allocated(both, none_free(both))
    # Two that lose nothing are alike, and the first goes first.
    assert (steps[len(errors) :] <= steps[: len(errors)]).all()


@given(st.integers(1, 8), arrays(np.float64, 5, elements=st.floats(0, 1e3)))
def test_layers_that_are_alike_become_alike(layers, grown):
    errors = np.tile(grown.cumsum(), (layers, 1))
    assert np.ptp(allocated(errors, none_free(errors))) <= 1


def test_steps_to_zeros_that_there_are_come_first():
    errors = np.array([[0.0, 1, 2, 3, 4], [0.0, 1, 2, 3, 4]])
    assert allocated(errors, np.array([30, 0])).tolist() == [30, 10]


def with_sensitive_layer() -> LlamaForCausalLM:
    """A model whose third layer adds most to the residual stream, so its errors are the largest."""
    model = tiny_model.new_model(num_hidden_layers=4).eval()
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            model.model.layers[2].get_submodule(name).weight *= 20
    return model


def error_by_hand(model: LlamaForCausalLM, layer: int, share: float, reads_inputs: bool) -> float:
    """The error of what a layer hands on, by straight passes through the model before and after it is pruned."""
    block, given = model.model.layers[layer], {}
    linears = {name: each for name, each in block.named_modules() if isinstance(each, torch.nn.Linear)}
    handles = [
        each.register_forward_pre_hook(lambda _, args, name=name: given.__setitem__(name, args[0]))
        for name, each in linears.items()
    ]
    outputs = []
    handles.append(block.register_forward_hook(lambda _, __, output: outputs.append(output.double())))
    with torch.no_grad():
        model(TOKENS)
        for name, each in linears.items():
            weight = each.weight.numpy().copy()
            norms = np.linalg.norm(given[name].flatten(0, 1).numpy(), axis=0) if reads_inputs else 1
            for row, sizes in zip(weight, np.abs(weight) * norms, strict=True):
                row[np.argsort(sizes)[: int(len(row) * share)]] = 0
            each.weight.data = torch.from_numpy(weight)
        model(TOKENS)
    for handle in handles:
        handle.remove()
    right, found = outputs
    return ((found - right).square().sum(-1) / right.square().sum(-1)).mean().item()


@pytest.mark.parametrize("reads_inputs", [True, False])
def test_the_error_of_a_layer_is_what_pruning_it_alone_does_to_what_it_hands_on(reads_inputs):
    model = with_sensitive_layer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    errors = output_errors(model, TOKENS, CPU, POINTS, reads_inputs=reads_inputs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for layer, share in ((0, 0.5), (2, 0.3), (2, 0.7)):
        expected = error_by_hand(with_sensitive_layer(), layer, share, reads_inputs)
        assert errors[layer, POINTS.index(share)] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("way", [Magnitude, Wanda, SparseGPT])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_sensitive_layer_keeps_more_and_less_is_lost_than_if_all_had_the_same_share(way, share):
    model = with_sensitive_layer()
    chosen = measured(way(sparsity=Measured(share=share)), model, TOKENS, CPU)
    assert chosen.share == pytest.approx(share, abs=1e-6)
    assert min(chosen.shares) == chosen.shares[2] < share
    assert max(abs(each - share) for each in chosen.shares) <= min(0.2, (1 - share) / 2) + 1e-6

    points = sorted({share, *chosen.shares})
    errors = output_errors(model, TOKENS, CPU, points, reads_inputs=way is not Magnitude)
    total = sum(errors[layer, points.index(each)] for layer, each in enumerate(chosen.shares))
    assert total < 0.8 * errors[:, points.index(share)].sum()


def test_weights_stay_where_they_are_and_a_layer_is_lent_to_the_device_while_it_computes(monkeypatch):
    model = with_sensitive_layer()
    before = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    lent, whole = [], torch.Tensor.to

    def copied(tensor, *args, **options):
        # As if the device were another.
        found = whole(tensor, *args, **options)
        if args == (CPU,) and tensor.dim() == 2:
            lent.append(found.clone())
            return lent[-1]
        return found

    expected = output_errors(model, TOKENS, CPU, POINTS, reads_inputs=True)
    monkeypatch.setattr(torch.Tensor, "to", copied)
    np.testing.assert_array_equal(output_errors(model, TOKENS, CPU, POINTS, reads_inputs=True), expected)
    assert lent
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == before


def test_zeros_that_there_are_cost_nothing():
    model = with_sensitive_layer()
    with torch.no_grad():
        for each in layers_of(model)[2].modules():
            if isinstance(each, torch.nn.Linear):
                each.weight[:, : int(0.55 * each.in_features)] = 0
    errors = output_errors(model, TOKENS, CPU, POINTS, reads_inputs=True)
    assert (errors[2, :3] == 0).all()
    assert errors[2, 3] > 0
    chosen = measured(Wanda(sparsity=Measured(share=0.5)), model, TOKENS, CPU)
    assert chosen.shares[2] > 0.53
    assert chosen.share == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        BertForMaskedLM(BertConfig(**SIZES, intermediate_size=128)),
        ModernBertForMaskedLM(ModernBertConfig(**SIZES, intermediate_size=128, pad_token_id=0)),
    ],
    ids=["bert", "modern_bert"],
)
def test_layers_of_encoders_are_measured_as_well(model):
    errors = output_errors(model.eval(), TOKENS, CPU, POINTS, reads_inputs=True)
    assert errors.shape == (3, 5)
    assert (np.diff(errors, axis=1) > 0).all()
    assert (errors > 0).all()
