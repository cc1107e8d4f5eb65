"""The quantize stage against llmcompressor called by hand: what both take of time and memory."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import compressed
import numpy as np
import pytest
from compressed import SEQUENCE_LENGTH, SIZES
from safetensors.torch import load_file

from llmrecipe import codec, scheme
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import batch_size
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.recipe.kinds import Scheme
from llmrecipe.sections import QuantizeSection

ROUNDS = 5
SAMPLES = 16
# `quantize_by_hand.py` knows them by these names.
SCHEMES: dict[str, Scheme] = {"w4a16": scheme.W4A16(group_size=64), "fp8": scheme.FP8()}


def spent_by(program: str, *arguments: object) -> dict[str, float]:
    """What a process says that its work took."""
    command = [sys.executable, Path(__file__).with_name(program), *map(str, arguments)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


@pytest.fixture(scope="module", params=SIZES)
def made(request, tmp_path_factory) -> dict[str, Path]:
    """A model, its tokens, and the sequences that calibrate, by role."""
    directory = tmp_path_factory.mktemp(request.param)
    made = compressed.make(request.param, directory)
    text = CalibrationText(
        tokens=TokenMixture.open([made["tokens"]], "train", (1.0,)),
        sequence_length=SEQUENCE_LENGTH,
        samples=SAMPLES,
        seed=0,
    )
    np.save(directory / "rows.npy", text.sequences().numpy())
    return made | {"rows": directory / "rows.npy"}


@pytest.mark.parametrize("name", SCHEMES)
def test_quantizing(benchmark, made, tmp_path, name):
    """They take turns, since what others do on the machine is then the same for both."""
    section = QuantizeSection(scheme=SCHEMES[name], calibration_samples=SAMPLES, seed=0)
    at_once = batch_size(np.load(made["rows"]))
    by_hand: list[dict[str, float]] = []
    ours: list[dict[str, float]] = []

    def call_by_hand() -> None:
        output = tmp_path / f"by-hand-{len(by_hand)}"
        by_hand.append(spent_by("quantize_by_hand.py", made["model"], made["rows"], name, at_once, output))

    def run_stage() -> None:
        output = tmp_path / f"ours-{len(ours)}"
        asked = json.dumps(codec.unstructure(section))
        ours.append(spent_by("quantize_stage.py", made["model"], made["tokens"], asked, output))

    benchmark.pedantic(run_stage, setup=call_by_hand, rounds=ROUNDS)
    theirs, written = (load_file(tmp_path / side / "model.safetensors") for side in ("by-hand-0", "ours-0/model"))
    shapes = [{part: tensor.shape for part, tensor in each.items()} for each in (theirs, written)]
    assert shapes[0] == shapes[1]
    # Ours rounds the scales of groups.
    assert name == "w4a16" or all(tensor.equal(theirs[part]) for part, tensor in written.items())
    benchmark.extra_info |= compared(ours, by_hand)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


def compared(ours: list[dict[str, float]], by_hand: list[dict[str, float]]) -> dict[str, Any]:
    """Each number of ours, and its ratio to that by hand.

    Of times the least, since others' work only adds to them; of memory the median.
    """

    def of(rounds: list[dict[str, float]], what: str) -> float:
        choose = statistics.median if what in ("rss", "anonymous") else min
        return float(choose([each[what] for each in rounds]))

    numbers = {what: round(of(ours, what), 2) for what in ours[0]}
    ratios = {f"{what}, to by hand": round(of(ours, what) / of(by_hand, what), 3) for what in by_hand[0]}
    return numbers | ratios
