"""Runs the peers of a case, loops over the same network, and compares."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cases
import numpy as np
from cases import SEQUENCE_LENGTH, VOCAB_SIZE, Case

from llmrecipe import MaskedLM
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokens.masking import mask
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.gpu_check.work import head_shapes, layer_shapes, step_flops
from llmrecipe.recipe.kinds import Objective

WARM_UP = 2
LAYOUTS = {"1-rank-2-threads": (1, 2), "2-ranks-1-thread": (2, 1)}
MASKED = MaskedLM(sequence_length=SEQUENCE_LENGTH)


def compared(case: Case, ours: float, plain: float) -> dict[str, float]:
    """What a benchmark says of the median seconds of both."""
    return {
        "parameters": case.network.num_parameters(VOCAB_SIZE),
        "tokens_per_second": round(case.tokens_per_step / ours),
        "plain_loop_tokens_per_second": round(case.tokens_per_step / plain),
        "ratio": round(plain / ours, 3),
    }


def our_seconds(
    case: Case,
    tokens: Path,
    scratch: Path,
    layout: str,
    *,
    objective: Objective = cases.CAUSAL,
    compiled: bool | None = None,
) -> float:
    """The median step of ours."""
    ranks, threads = LAYOUTS[layout]
    trained = cases.run(case, tokens, scratch, objective=objective, ranks=ranks, threads=threads, compiled=compiled)
    return statistics.median(row["seconds"] for row in trained.timings[WARM_UP:])


def compared_with_all(case: Case, ours: float, not_compiled: float, peers: Mapping[str, float]) -> dict[str, Any]:
    """Tokens a second of ours, compiled and not, and of every peer, and our ratio to the best.

    In parentheses is the share of the processor's best product that a step comes to, by the work in `work.FORMULA`.
    """
    peak = _peak(case)
    flops = step_flops(
        case.network,
        VOCAB_SIZE,
        tokens=case.tokens_per_step,
        length=SEQUENCE_LENGTH,
        predicted=MASKED.mask_rate if case.network.reads_both_sides else 1.0,
    )
    seconds = {"ours": ours, "ours, not compiled": not_compiled, **peers}
    speeds = {
        name: f"{case.tokens_per_step / each:,.0f} ({flops / each / peak / 1e7:.0f} %)"
        for name, each in seconds.items()
    }
    return {
        "parameters": case.network.num_parameters(VOCAB_SIZE),
        "best product, GFLOP/s": round(peak),
        **speeds,
        "ratio to the best": round(min(peers.values()) / ours, 3),
    }


def causal_peers(case: Case) -> dict[str, float]:
    """The median step of every peer of a causal training; they always have both cores."""
    return {
        f"{name}{', compiled' if compiled else ''}": _run(
            loop, case, case.steps, case.batch, SEQUENCE_LENGTH, compiled=compiled
        )
        for name, loop in (("transformers", "plain_loop.py"), ("bare", "bare_loop.py"))
        for compiled in (False, True)
    }


def plain_seconds(case: Case) -> float:
    """The median step of the plain loop, which always has both cores."""
    return _run("plain_loop.py", case, case.steps, case.batch, SEQUENCE_LENGTH)


def masked_peers(case: Case, tokens: Path, batches: Path) -> dict[str, float]:
    """The median step of every peer of a masked training."""
    return {
        f"transformers{', compiled' if compiled else ''}": plain_masked_seconds(
            case, tokens, batches, compiled=compiled
        )
        for compiled in (False, True)
    }


def plain_masked_seconds(case: Case, tokens: Path, batches: Path, *, compiled: bool = False) -> float:
    """The median step of the plain masked loop, on our batches with our masks, which it gets ready-made."""
    files = TokenMixture.open([tokens], "train", (1.0,))
    samples = files.order(SEQUENCE_LENGTH, cases.SEED).samples(0, case.steps * case.batch)
    input_ids, labels = np.full((2, len(samples), SEQUENCE_LENGTH), -100, dtype=np.int64)
    for index, (window, epoch) in enumerate(samples):
        row = files.window(window, SEQUENCE_LENGTH)[:-1]
        options = {"seed": cases.SEED, "epoch": epoch, "window": window}
        masked = mask(row, MASKED, files.masked_vocabulary, **options)
        input_ids[index] = masked.input_ids
        labels[index, masked.positions] = row[masked.positions]
    shape = (case.steps, case.batch, SEQUENCE_LENGTH)
    np.savez(batches, input_ids=input_ids.reshape(shape), labels=labels.reshape(shape))
    return _run("plain_masked_loop.py", case, batches, compiled=compiled)


def _run(loop: str, case: Case, *arguments: object, compiled: bool = False) -> float:
    config = architecture_of(case.network).transformers_config(case.network, VOCAB_SIZE, 0).to_dict()
    # As the recipe has it; transformers' own default is 0.1.
    config |= {key: 0.0 for key in config if key.endswith("dropout_prob")}
    seconds: list[float] = _printed_by(loop, json.dumps(config), *arguments, 2, int(compiled))
    return statistics.median(seconds[WARM_UP:])


def _peak(case: Case) -> float:
    """GFLOP/s of the best product of the network's shapes, on both cores."""
    shapes = layer_shapes(case.network) + head_shapes(case.network, VOCAB_SIZE)
    found: float = _printed_by("peak.py", case.tokens_per_step, json.dumps(shapes), 2)
    return found


def _printed_by(program: str, *arguments: object) -> Any:
    command = [sys.executable, Path(__file__).with_name(program), *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
