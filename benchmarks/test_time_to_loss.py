"""Steps and seconds until the shipped quickstart model has learned what AdamW at its best rate teaches it by the end.

Each optimizer has the same learning rates to choose from, a run each, and its best is then run with other seeds, too.
"""

import statistics
import subprocess
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import NamedTuple

import pytest

from llmrecipe import Machine, Parallelism, Steps, evolve, optimizer
from llmrecipe.engines.nanotron.launcher import train
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.kinds import Optimizer
from recipes.quickstart import quickstart

STAGES = {stage.name.rpartition("-")[2]: stage for stage in plan([quickstart()]).stages[:4]}
TRAIN, TOKENIZE = STAGES["train"], STAGES["tokenize"]

LEARNING_RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
SEEDS = (7, 8, 9)
STEPS = 200
INTERVAL = 10
"""Steps between two measurements of the loss on the held-out text."""


class Curve(NamedTuple):
    """A run: its losses on the held-out text, by step, and its median step in seconds."""

    losses: dict[int, float]
    step_seconds: float

    @property
    def final(self) -> float:
        return self.losses[STEPS]

    def steps_to(self, loss: float) -> int:
        """The first measured step with a loss no higher; one that the run doesn't reach counts as after its end."""
        return next((step for step, value in self.losses.items() if value <= loss), STEPS + INTERVAL)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """The quickstart's tokens, made by its own stages."""
    project = tmp_path_factory.mktemp("project")
    copytree(Path(__file__).parents[1] / "recipes", project / "recipes")
    for command in (
        ["git", "init", "--quiet"],
        ["dvc", "init", "--quiet"],
        ["llmrecipe", "plan", "quickstart"],
        ["dvc", "repro", TOKENIZE.name],
    ):
        subprocess.run(command, cwd=project, check=True)
    return project / TRAIN.inputs["tokens"]


def run(chosen: Optimizer, seed: int, tokens: Path, scratch: Path) -> Curve:
    """Train the quickstart's model for some steps."""
    training = evolve(
        TRAIN.section.training,
        duration=Steps(STEPS),
        optimizer=chosen,
        seed=seed,
        validation_interval=INTERVAL,
    )
    finished = train(
        evolve(TRAIN.section, training=training, parallelism=Parallelism(micro_batch_size=16, threads_per_rank=2)),
        name="benchmark",
        tokens=[tokens],
        shares=(1.0,),
        machine=Machine(device="cpu", checkpoint_interval=STEPS),
        scratch=scratch / f"{type(chosen).__name__}-{chosen.learning_rate}-{seed}",
        events=scratch / "events",
    )
    losses = {row["step"]: row["validation_loss"] for row in finished.metrics if "validation_loss" in row}
    return Curve(losses, statistics.median(row["seconds"] for row in finished.timings[2:]))


def tuned(kind: type[Optimizer], tokens: Path, scratch: Path) -> tuple[float, list[Curve]]:
    """The learning rate with the lowest loss at the end, and a run with it for each seed."""
    train_with = partial(run, tokens=tokens, scratch=scratch)
    first = {rate: train_with(kind(learning_rate=rate), SEEDS[0]) for rate in LEARNING_RATES}
    print({f"{kind.__name__}, {rate:g}": round(curve.final, 4) for rate, curve in first.items()})
    best = min(first, key=lambda rate: first[rate].final)
    return best, [first[best], *(train_with(kind(learning_rate=best), seed) for seed in SEEDS[1:])]


def mean(values: Iterable[float]) -> float:
    return statistics.mean(values)


def test_time_to_loss(benchmark, tokens, tmp_path):
    runs = benchmark.pedantic(
        lambda: {kind: tuned(kind, tokens, tmp_path) for kind in (optimizer.AdamW, optimizer.Muon)},
        rounds=1,
        iterations=1,
    )
    # What every seed of AdamW reaches.
    target = max(curve.final for curve in runs[optimizer.AdamW][1])
    benchmark.extra_info["loss to reach"] = round(target, 4)
    for kind, (rate, curves) in runs.items():
        steps = [curve.steps_to(target) for curve in curves]
        benchmark.extra_info[kind.__name__] = {
            "learning_rate": rate,
            "losses at the end": [round(curve.final, 4) for curve in curves],
            "steps": steps,
            "seconds": round(mean(s * curve.step_seconds for s, curve in zip(steps, curves, strict=True)), 1),
        }
    print(f"\n{benchmark.extra_info}")
