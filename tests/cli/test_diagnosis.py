"""Overrides are proposed where the error is, for the bits that it takes."""

import re

import pytest
from strategies import SMALL, SMALL_MODEL

from llmrecipe import Quantized, evolve, scheme
from llmrecipe.cli.diagnosis import proposals, told
from llmrecipe.recipe import checks
from llmrecipe.sections import QuantizeSection

GPTQ = QuantizeSection(scheme=scheme.W4A16(group_size=32), calibration_samples=1, seed=0)


def row(layer: str, error: float, weights: int = 100, bits: int = 4) -> dict:
    return {"layer": layer, "weights": weights, "bits": bits, "output_error": 0.5, "stream_error": error}


ROWS = [
    row("model.layers.0.mlp.down_proj", 0.001, weights=300),
    row("model.layers.1.mlp.down_proj", 0.050, weights=300),
    row("model.layers.0.self_attn.v_proj", 0.015, weights=50),
    row("model.layers.1.self_attn.v_proj", 0.014, weights=50),
    row("model.layers.0.self_attn.o_proj", 0.020, weights=300, bits=8),
]


def test_layers_and_kinds_of_them_that_remove_most_for_their_bits_come_first():
    found = proposals(ROWS, GPTQ)
    total, weights = 0.1, 1000
    assert [(each.override.layers, each.removed, each.bits) for each in found] == [
        ("model.layers.0.self_attn.v_proj", 0.015 / total, 4 * 50 / weights),
        ("model.layers.1.self_attn.v_proj", 0.014 / total, 4 * 50 / weights),
        ("v_proj", (0.015 + 0.014) / total, 4 * 100 / weights),
        ("down_proj", (0.001 + 0.050) / total, 4 * 600 / weights),
    ]


def test_little_of_the_error_is_no_reason_and_layers_of_eight_bits_are_left():
    assert proposals([row(f"model.layers.{index}.mlp.l{index}_proj", 0.01) for index in range(30)], GPTQ) == []
    assert proposals([row("model.layers.0.mlp.up_proj", 0.5, bits=8)], GPTQ) == []
    assert proposals([row("model.layers.0.mlp.up_proj", 0.0)], GPTQ) == []


@pytest.mark.parametrize(
    "asked",
    [
        scheme.W4A16(group_size=32),
        scheme.W4A16(group_size=32, rounding=scheme.RoundToNearest()),
        scheme.W3A16(group_size=32, rounding=scheme.GPTQ(dampening_frac=0.05)),
        scheme.W4AFP8(group_size=32),
        scheme.MXFP4(),
        scheme.NVFP4(),
    ],
    ids=repr,
)
def test_what_is_told_is_a_word_that_the_recipe_takes(asked):
    lines = told("small", proposals(ROWS, evolve(GPTQ, scheme=asked)))
    # Of NVFP4, layers that share a factor can't have another format one by one.
    assert bool(lines) is not isinstance(asked, scheme.NVFP4)
    for line in lines[1:]:
        word, _, rest = line.strip().partition(": about ")
        assert re.fullmatch(r"\d+ % of its error, for \d\.\d\d bits a weight", rest)
        model = Quantized(model=SMALL_MODEL, scheme=asked, overrides=(eval(word, {"scheme": scheme}),))
        assert checks.violations(evolve(SMALL, models=(SMALL_MODEL, model))) == []


def test_nothing_is_told_where_nothing_would_help():
    assert told("small", []) == []
