"""How fast the large model learns, and where the time goes."""

from pathlib import Path
from typing import Any

import attrs
import torch

from llmrecipe.errors import StageError
from llmrecipe.gpu_check import work
from llmrecipe.gpu_check.footprint import peak_bytes
from llmrecipe.gpu_check.outcome import Outcome, Row
from llmrecipe.gpu_check.peaks import peak_of
from llmrecipe.gpu_check.scale import Case, Scale
from llmrecipe.gpu_check.training import Measured, made_tokens, measured


def run(scale: Scale, folder: Path) -> Outcome:
    """A run for each micro-batch, whose layers are computed again where they would not fit otherwise."""
    tokens = made_tokens(folder / "tokens", scale.large)
    peak = peak_of(scale.device)
    rows: list[Row] = []
    failures: list[str] = []
    found: dict[int, Measured] = {}
    for size in scale.micro_batches:
        case = attrs.evolve(scale.large, micro_batch=size)
        if scale.device == "cuda":
            fits = peak_bytes(case) < torch.cuda.mem_get_info()[1] * 0.95
            case = attrs.evolve(case, recompute=not fits)
        try:
            found[size] = measured(case, tokens, folder, scale.machine)
        except StageError as error:
            failures.append(f"micro-batch {size}: {error}")
            continue
        rows.append(
            {"micro-batch": size, "recomputed": case.recompute}
            | speed_of(case, found[size], peak.flops)
            | {"formula, GB": peak_bytes(case) / 1e9}
        )
    title = f"{scale.large.name}, {scale.large.precision}, {scale.large.sequence_length} tokens, peak {peak}"
    return Outcome(
        tables={title: rows, "percent of a step, by kernel": _classes(found), "longest kernels": _longest(found)},
        failures=failures,
    )


def speed_of(case: Case, found: Measured, peak: float) -> dict[str, Any]:
    """Tokens a second, with the shares of the device's peak, and the memory that it took."""
    size = {"tokens": case.tokens, "length": case.sequence_length}
    needed = work.step_flops(case.network, case.vocab_size, **size, predicted=1.0)
    counted = needed + work.attention_flops(case.network, **size) / 2
    return {
        "tokens/s": case.tokens / found.seconds,
        # As papers count it since PaLM: every token reads all of a sequence.
        "MFU, %": 100 * counted / found.seconds / peak,
        "needed work, %": 100 * needed / found.seconds / peak,
        "peak, GB": found.peak_bytes / 1e9,
    }


def _classes(found: dict[int, Measured]) -> list[Row]:
    """A line for each class, a column for each micro-batch."""
    names = next(iter(found.values())).kernels if found else ()
    shares = {
        size: {name: 100 * seconds / sum(each.kernels.values()) for name, seconds in each.kernels.items()}
        for size, each in found.items()
    }
    return [{"kernels": name} | {f"micro-batch {size}": shares[size][name] for size in found} for name in names]


def _longest(found: dict[int, Measured]) -> list[Row]:
    """The kernels of the last micro-batch that take longest."""
    if not found:
        return []
    size, last = list(found.items())[-1]
    return [{f"micro-batch {size}": name, "ms a step": 1000 * seconds} for name, seconds in last.longest]
