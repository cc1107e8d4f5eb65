"""Runs the peer of a case, a plain loop over the case's own network in transformers, and compares."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
from cases import SEQUENCE_LENGTH, VOCAB_SIZE, Case

from llmrecipe import MaskedLM
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokens.masking import mask
from llmrecipe.engines.tokens.mixture import TokenMixture

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


def plain_seconds(case: Case) -> float:
    """The median step of the plain loop, which always has both cores."""
    return _run("plain_loop.py", case, case.steps, case.batch, SEQUENCE_LENGTH)


def plain_masked_seconds(case: Case, tokens: Path, batches: Path) -> float:
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
    return _run("plain_masked_loop.py", case, batches)


def _run(loop: str, case: Case, *arguments: object) -> float:
    config = architecture_of(case.network).transformers_config(case.network, VOCAB_SIZE, 0).to_dict()
    # As the recipe has it; transformers' own default is 0.1.
    config |= {key: 0.0 for key in config if key.endswith("dropout_prob")}
    command = [sys.executable, Path(__file__).with_name(loop), json.dumps(config), *map(str, arguments), "2"]
    output = subprocess.run(command, capture_output=True, text=True, check=True)
    return statistics.median(json.loads(output.stdout)[WARM_UP:])
