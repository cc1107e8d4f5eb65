"""Tokens per second of compressed models as transformers computes them, against the model that they were made from."""

import time
from collections.abc import Callable
from pathlib import Path

import compressed
import pytest
import tiny_model
import torch
from compressed import NETWORKS, SIZES
from transformers import PreTrainedModel

from llmrecipe import prune, scheme
from llmrecipe.engines.models import folders
from llmrecipe.sections import PruneSection, QuantizeSection, Section
from llmrecipe.stages import prune as pruning
from llmrecipe.stages import quantize as quantizing

ROUNDS = 9
PROMPT = 16
READ, WRITTEN = 512, 64
"""Tokens of a prefill, and those that a decoding writes one by one."""


def section(name: str, size: str) -> Section:
    """What is made of the model. Weights are rounded to nearest: how they are rounded doesn't show in the speed."""
    network, nearest = NETWORKS[size], scheme.RoundToNearest()
    kinds = {
        "w4a16": scheme.W4A16(group_size=64, observer="minmax", rounding=nearest),
        "w8a8": scheme.W8A8(smoothing_strength=None, rounding=nearest),
        "fp8": scheme.FP8(),
        "half the layers": prune.Layers(num_layers=network.num_layers // 2, left_out="last"),
        "half the width": prune.Width(
            intermediate_size=network.intermediate_size // 2, num_key_value_heads=network.num_key_value_heads // 2
        ),
    }
    kind = kinds[name]
    what = {"calibration_samples": 8, "seed": 0}
    return PruneSection(method=kind, **what) if "half" in name else QuantizeSection(scheme=kind, **what)


@pytest.fixture(scope="module", params=SIZES)
def dense(request, tmp_path_factory) -> tuple[str, dict[str, Path]]:
    """The size, and the model and its tokens, by role."""
    return request.param, compressed.make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=["w4a16", "w8a8", "fp8", "half the layers", "half the width"])
def models(request, dense, tmp_path_factory) -> dict[str, PreTrainedModel]:
    """The dense model and the one that was made of it, as the stages that measure load them."""
    size, made = dense
    asked, output = section(request.param, size), tmp_path_factory.mktemp("made") / "output"
    run = pruning.run if isinstance(asked, PruneSection) else quantizing.run
    run(tiny_model.stage_context(asked, made, output, device="cpu", log_level="warning"))
    return {"dense": folders.load_model(made["model"]), "compressed": folders.load_model(output / "model")}


def prefill(model: PreTrainedModel) -> None:
    """Read a batch of one sequence."""
    folders.logits(model, torch.arange(READ)[None] % compressed.TOKENS)


def decode(model: PreTrainedModel) -> None:
    """Write token after token with the cache, the likeliest each time."""
    prompt = torch.arange(PROMPT)[None]
    model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=WRITTEN,
        min_new_tokens=WRITTEN,
        pad_token_id=0,
    )


@pytest.mark.parametrize(("work", "tokens"), [(prefill, READ), (decode, WRITTEN)], ids=["prefill", "decode"])
def test_model_speed(benchmark, models, work, tokens):
    """They take turns; of each the shortest time counts, since others' work only adds to it."""
    seconds = {name: [] for name in models}
    of_processor = {name: [] for name in models}

    def take(name: str, call: Callable[[PreTrainedModel], None]) -> None:
        started = time.perf_counter(), time.process_time()
        call(models[name])
        seconds[name].append(time.perf_counter() - started[0])
        of_processor[name].append(time.process_time() - started[1])

    benchmark.pedantic(take, ("compressed", work), setup=lambda: take("dense", work), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info |= {
        "tokens per second": round(tokens / min(seconds["compressed"])),
        "dense": round(tokens / min(seconds["dense"])),
        "ratio": round(min(seconds["dense"]) / min(seconds["compressed"]), 2),
        "ratio of processor seconds": round(min(of_processor["dense"]) / min(of_processor["compressed"]), 2),
    }
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
