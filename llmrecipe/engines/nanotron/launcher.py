"""A run from its section to its last step: starts the ranks, and resumes what an earlier one left."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts
from llmrecipe.engines.device import check_precision, set_up
from llmrecipe.engines.nanotron import metrics, weights
from llmrecipe.engines.nanotron.checkpoint import KIND, checkpoints, keep_newest
from llmrecipe.engines.nanotron.config import nanotron_configuration
from llmrecipe.engines.nanotron.job import Job, StateFolder
from llmrecipe.engines.nanotron.meaning import folder_of, meaning_of, others
from llmrecipe.engines.nanotron.metrics import Row
from llmrecipe.engines.nanotron.port.linear import fastest
from llmrecipe.engines.nanotron.start import card_of_start, first_weights
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.extensions import modules_of
from llmrecipe.launch.lock import wait_until_free
from llmrecipe.launch.torchrun import run_ranks
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.networks.network import Network
from llmrecipe.sections import TrainSection

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class FinishedRun:
    """What a run left that has come to its end."""

    job: Job
    """The run."""

    checkpoint: Path
    """nanotron checkpoint of the step that `training.select` wants."""

    step: int
    """That step."""

    metrics: list[Row]
    """A row a step: step, tokens, samples, learning_rate, grad_norm, loss, and where there is one validation_loss,
    z_loss and skipped, the reason; a skipped step lacks the numbers that weren't finite."""

    timings: list[Row]
    """A row a step that this machine ran: step, seconds."""

    measurements: dict[str, Any]
    """What the launch that finished it measured; empty if it was killed before it had written that down.

    library: what multiplied in linear layers; only of float32 on a CPU. communication_percent: by kind
    (`communication.py`), the share of its steps in which ranks waited for each other, as the mean over the ranks.
    peak_memory_mb: the most memory that each rank held, in megabytes.
    """


def train(
    section: TrainSection,
    *,
    name: str,
    tokens: Sequence[Path],
    shares: Sequence[float],
    start: Path | None = None,
    tokenizer: Path | None = None,
    machine: Machine,
    scratch: Path,
) -> FinishedRun:
    """Train, or finish training, and return the state that the section selects.

    Args:
        section: the run.
        name: the stage's, for messages.
        tokens: the tokens artifact of each corpus.
        shares: sequences drawn from each, relative to the others.
        start: the model that the run starts from, if the section names no network.
        tokenizer: the tokenizer artifact that the start gets embeddings for, if the section asks for that.
        machine: what it runs on.
        scratch: a folder for the resumable states of runs.

    Raises:
        StageError: a corpus is smaller than a batch, the tokenizer lacks tokens of the objective, the start doesn't go
            with the tokens, the device can't do the precision, ranks of an earlier run are alive, a step that this
            recipe would have stopped at was skipped, or a rank failed.
    """
    files = TokenMixture.open(tokens, "train", shares)
    _refuse_small_corpora(files, TokenMixture.open(tokens, "heldout", shares), section, name)
    files.special_ids(section.objective.special_tokens)
    device = set_up(machine)
    check_precision(section.training.precision, device)
    network, embedding_rows = _network(section, start, tokens, name)
    job = Job(
        section=section,
        network=network,
        machine=evolve(machine, device=device.type),
        name=name,
        modules=tuple(sorted({*modules_of(section), *modules_of(network)})),
        tokens=tuple(map(str, tokens)),
        shares=tuple(shares),
        vocab_size=files.vocab_size,
        rows=embedding_rows or files.vocab_size,
        end_of_text_id=files.end_of_text_id,
        start=str(start) if start else None,
        tokenizer=str(tokenizer) if tokenizer else None,
        state="",
        resume=None,
        library=fastest() if device.type == "cpu" and section.training.precision == "float32" else None,
    )
    meaning = meaning_of(job)
    state = StateFolder(folder_of(meaning, scratch))
    # A rank whose launcher was killed follows it within moments.
    wait_until_free(state.root / "ranks.lock", seconds=30)
    select = section.training.select
    step, checkpoint = _newest(state, select)
    if checkpoint is None:
        for folder, differences in others(state.root, meaning):
            log.warning("starts afresh; an earlier run is kept in %s, with %s", folder, ", ".join(differences))
    else:
        log.info("resumes after step %d of %d", step, job.num_steps)
    _refuse_skipped_steps(state, section, name, step)
    if step < job.num_steps:
        job = evolve(job, state=str(state.root), resume=str(checkpoint) if checkpoint else None)
        _start(job, state, step)
        step, checkpoint = _newest(state, select)
    if checkpoint is None or step != job.num_steps:
        raise StageError(
            f"{name}: the run has ended, and its newest whole checkpoint is that of step {step} of {job.num_steps}; "
            "`dvc repro` resumes from there"
        )
    logged = metrics.read(state.metrics)
    best = metrics.best_step(logged) if select == "best" else None
    # Not only after a run: it may have been killed before it came to this.
    shutil.rmtree(state.first_weights, ignore_errors=True)
    keep_newest(state.checkpoints, machine.keep_checkpoints, best)
    if best is not None:
        step, checkpoint = best, state.checkpoint(best)
    return FinishedRun(
        job=job,
        checkpoint=checkpoint,
        step=step,
        metrics=logged,
        timings=metrics.read(state.timings),
        measurements=_measurements(state.measurements),
    )


def _start(job: Job, state: StateFolder, step: int) -> None:
    section = job.section
    if not state.first_weights.exists():
        with artifacts.replacing(state.first_weights) as folder:
            weights.write_unsharded(first_weights(job, folder), job.network, folder)
    for newer, folder in checkpoints(state.checkpoints):
        # Not resumed from, since the best one before it is damaged. Its rows go now, so it has to go first.
        if newer > step:
            shutil.rmtree(folder)
    for rows in (state.metrics, state.timings):
        artifacts.write_jsonl(rows, [row for row in metrics.read(rows) if row["step"] <= step])
    _tell_library(job, state)
    artifacts.write_text(state.nanotron_config, yaml.safe_dump(nanotron_configuration(job, state)))
    job.write(state.job)
    run_ranks(
        job.name,
        "llmrecipe.engines.nanotron.worker",
        [str(state.job)],
        ranks=section.parallelism.world_size,
        threads_per_rank=section.parallelism.threads_per_rank,
    )


def _tell_library(job: Job, state: StateFolder) -> None:
    before = job.library
    if job.resume and state.job.exists():
        before = artifacts.read_json(state.job).get("library", before)
    if before != job.library:
        log.warning(
            "the steps so far were multiplied by %s, and those to come by %s, as is faster on this kind of processor: "
            "they round differently, and the result has other bits than a run on one kind alone",
            before or "torch",
            job.library or "torch",
        )


def _network(
    section: TrainSection, start: Path | None, tokens: Sequence[Path], name: str
) -> tuple[Network, int | None]:
    """What is trained, and the rows of its embedding; None for as many as tokens."""
    match section.network, start:
        case Network() as network, None:
            return network, None
        case None, Path() as directory:
            card = card_of_start(directory, tokens, resize_embeddings=section.resize_embeddings)
            return card.network, None if section.resize_embeddings else card.embedding_rows
    given = "neither a network nor" if start is None else "both a network and"
    raise StageError(f"{name}: it has {given} a model to start from (the start input); run `llmrecipe plan`")


def _newest(state: StateFolder, select: str) -> tuple[int, Path | None]:
    """Step and folder of the newest whole checkpoint to resume from; (0, None) is the start.

    Damaged ones are put aside. If the best is to be selected, that of the steps so far has to be there as well.
    """
    rows = metrics.read(state.metrics)
    for step, folder in checkpoints(state.checkpoints):
        best = metrics.best_step(row for row in rows if row["step"] <= step) if select == "best" else None
        if _is_whole(folder, step) and (best is None or _is_whole(state.checkpoint(best), best)):
            return step, folder
    return 0, None


def _is_whole(folder: Path, step: int) -> bool:
    if not folder.exists():
        return False
    try:
        artifacts.verify(folder, KIND)
    except StageError as damage:
        aside = folder.with_name(f"damaged-{step}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        log.warning("the checkpoint of step %d is damaged and put aside as %s: %s", step, aside, damage)
        return False
    return True


def _refuse_skipped_steps(state: StateFolder, section: TrainSection, name: str, step: int) -> None:
    skipped = [row["step"] for row in metrics.read(state.metrics) if row["step"] <= step and "skipped" in row]
    if skipped and section.training.anomalies.action == "stop":
        raise StageError(
            f"{name}: an earlier launch of this run has skipped step {skipped[0]}, where training.anomalies.action = "
            f"'stop' would have ended it; use 'skip', or delete {state.root} to train again from the start"
        )


def _measurements(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _refuse_small_corpora(train: TokenMixture, heldout: TokenMixture, section: TrainSection, name: str) -> None:
    length, batch = section.objective.sequence_length, section.training.global_batch_size
    windows = train.num_windows(length)
    if windows < batch:
        raise StageError(
            f"{name}: the training split has {train.num_tokens:,} tokens, {windows} sequences of {length}, fewer "
            f"than one batch of {batch}; use more text, a smaller training.global_batch_size or a shorter "
            "objective.sequence_length"
        )
    for split, mixture in (("training", train), ("held-out", heldout)):
        for number, files in enumerate(mixture.corpora):
            if files.num_windows(length) == 0:
                where = f" of parts[{number}]" if len(mixture.corpora) > 1 else ""
                raise StageError(
                    f"{name}: the {split} split{where} has {files.num_tokens:,} tokens, less than one sequence of "
                    f"{length}; use more text, a larger heldout of the corpus or a smaller objective.sequence_length"
                )
