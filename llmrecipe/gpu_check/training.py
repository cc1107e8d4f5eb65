"""Trainings of the check, by the engine that the train stage uses."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import numpy as np

from llmrecipe import artifacts
from llmrecipe.certify.run import train_stage
from llmrecipe.engines.nanotron import launcher
from llmrecipe.engines.nanotron.launcher import FinishedRun
from llmrecipe.engines.tokens.writing import write_tokens
from llmrecipe.errors import StageError
from llmrecipe.gpu_check.measuring_rank import MEASURED
from llmrecipe.gpu_check.scale import Case
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.sections import TrainSection

_RUN = 50


@attrs.frozen(kw_only=True)
class Measured:
    """What was measured of a training's steps."""

    seconds: float
    """Of a step, as the mean of some after the first ones."""

    peak_bytes: int
    """The most that it held in these: tensors on a GPU, all of the process on a CPU."""

    kernels: dict[str, float]
    """Seconds of a step in each class of kernels, and in none."""

    longest: list[tuple[str, float]]
    """The kernels that took longest, with their seconds in a step."""


def made_tokens(folder: Path, case: Case) -> Path:
    """Tokens in `folder` of a language that can be learned, rising runs from random starts: enough for four steps."""
    draw, splits = np.random.default_rng(0), {}
    for split, sequences in (("train", 4 * case.sequences), ("heldout", 2)):
        starts = draw.integers(0, case.vocab_size, (sequences * (case.sequence_length + 1) // _RUN + 1, 1))
        splits[split] = [((starts + np.arange(_RUN)) % case.vocab_size).reshape(-1)]
    return write_tokens(folder, splits, vocab_size=case.vocab_size)


def trained(case: Case, tokens: Path, folder: Path, machine: Machine, **parallelism: Any) -> FinishedRun:
    """The finished training of a case, its state in `folder`.

    Raises:
        StageError: as `launcher.train`.
    """
    model = case.model(**parallelism)
    section = train_stage(Recipe(name=model.name, models=(model,)), model).section
    assert isinstance(section, TrainSection)
    return launcher.train(
        section,
        name=f"{case.name}-train",
        tokens=[tokens],
        shares=(1.0,),
        machine=machine,
        scratch=folder,
        events=folder / "train.events",
    )


def measured(
    case: Case, tokens: Path, folder: Path, machine: Machine, environment: Mapping[str, str] | None = None
) -> Measured:
    """The first steps of a case's training, measured; it leaves no checkpoint.

    `folder` keeps the first weights for the next training of the same network and tokens.

    Raises:
        StageError: as `launcher.train`.
    """
    for earlier in folder.glob(f"*/{MEASURED}"):
        earlier.unlink()
    with _measuring_ranks(), mock.patch.dict(os.environ, environment or {}):
        try:
            trained(attrs.evolve(case, steps=10**6), tokens, folder, machine)
        except StageError:
            # That is how a training ends that has been measured.
            if not list(folder.glob(f"*/{MEASURED}")):
                raise
    (found,) = folder.glob(f"*/{MEASURED}")
    return Measured(**artifacts.read_json(found))


def loss_difference(one: FinishedRun, other: FinishedRun) -> float:
    """How far the losses of two runs are apart, at the step where that is most."""
    return max(abs(mine["loss"] - theirs["loss"]) for mine, theirs in zip(one.metrics, other.metrics, strict=True))


@contextmanager
def _measuring_ranks() -> Iterator[None]:
    """Ranks that measure, in the place of those that the launcher starts."""
    run_ranks = launcher.run_ranks

    def run(name: str, _: str, *arguments: Any, **options: Any) -> None:
        run_ranks(name, "llmrecipe.gpu_check.measuring_rank", *arguments, **options)

    with mock.patch.object(launcher, "run_ranks", run):
        yield
