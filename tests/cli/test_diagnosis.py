"""Overrides are proposed where the error is, for the bits that it takes."""

from llmrecipe.cli.diagnosis import proposals, told


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
    found = proposals(ROWS)
    total, weights = 0.1, 1000
    assert [(each.layers, each.removed, each.bits) for each in found] == [
        ("model.layers.0.self_attn.v_proj", 0.015 / total, 4 * 50 / weights),
        ("model.layers.1.self_attn.v_proj", 0.014 / total, 4 * 50 / weights),
        ("v_proj", (0.015 + 0.014) / total, 4 * 100 / weights),
        ("down_proj", (0.001 + 0.050) / total, 4 * 600 / weights),
    ]


def test_little_of_the_error_is_no_reason_and_layers_of_eight_bits_are_left():
    assert proposals([row(f"model.layers.{index}.mlp.l{index}_proj", 0.01) for index in range(30)]) == []
    assert proposals([row("model.layers.0.mlp.up_proj", 0.5, bits=8)]) == []
    assert proposals([row("model.layers.0.mlp.up_proj", 0.0)]) == []


def test_a_proposal_is_told_as_the_word_that_a_recipe_takes():
    line = told("small", proposals(ROWS))[3]
    assert line == (
        '  29 % of its error for 0.40 bits a weight more: scheme.Override(layers="v_proj", scheme=scheme.W8A16())'
    )
    assert told("small", []) == []
