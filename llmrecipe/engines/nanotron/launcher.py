"""A run from its section to its last step: starts the ranks, and resumes what an earlier one left."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts, memory
from llmrecipe.engines.device import check_precision, set_up
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.checkpoint import newest
from llmrecipe.engines.nanotron.compiling import compiles, obstacle
from llmrecipe.engines.nanotron.config import nanotron_configuration
from llmrecipe.engines.nanotron.environment import environment_of
from llmrecipe.engines.nanotron.job import Job, NanotronFolder
from llmrecipe.engines.nanotron.meaning import folder_of, meaning_of
from llmrecipe.engines.nanotron.port.linear import fastest
from llmrecipe.engines.nanotron.predecessors import take_over
from llmrecipe.engines.nanotron.start import card_of_start, first_weights
from llmrecipe.engines.runs import jobs, metrics
from llmrecipe.engines.runs.checkpoints import checkpoints, keep_newest
from llmrecipe.engines.runs.events import complete, refuse_missing
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.engines.tokens.enough import refuse_small_corpora
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.extensions import modules_of
from llmrecipe.launch.lock import wait_until_free
from llmrecipe.launch.torchrun import run_ranks
from llmrecipe.recipe import checks
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

    kept: dict[int, Path]
    """nanotron checkpoints that `training.keep_every` keeps, by step."""

    metrics: list[Row]
    """A row a step: step, tokens, samples, learning_rate, grad_norm, loss, and where there is one validation_loss,
    z_loss and skipped, the reason; a skipped step lacks the numbers that weren't finite."""

    timings: list[Row]
    """A row a step that this machine ran: step, seconds."""

    measurements: dict[str, Any]
    """What the launch that finished it measured; empty if it was killed before it had written that down.

    math_library: what multiplied in linear layers; only of float32 on a CPU. communication_percent: by kind
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
    events: Path,
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
        events: a folder for the event files that the machine asks for.

    Raises:
        RecipeError: the length of the run, in epochs, is less than the parts of its schedule.
        StageError: a corpus is smaller than a batch, the tokenizer lacks tokens of the objective, the start doesn't go
            with the tokens, the device can't do the precision, ranks of an earlier run are alive, a step that this
            recipe would have stopped at was skipped, it takes more memory than there is, a package of the machine's
            events or of the precision is missing, or a rank failed.
    """
    refuse_missing(machine.events, name)
    files = TokenMixture.open(tokens, "train", shares)
    length, batch = section.objective.sequence_length, section.training.global_batch_size
    refuse_small_corpora(files, TokenMixture.open(tokens, "heldout", shares), length, batch, name)
    settled = _settled(section, files.num_windows(section.objective.sequence_length), name)
    files.special_ids(section.objective.special_tokens)
    device = set_up(machine)
    check_precision(section.training.precision, device)
    network, embedding_rows = _network(section, start, tokens, name)
    rows = embedding_rows or files.vocab_size
    job = Job(
        section=settled,
        network=network,
        machine=evolve(machine, device=device.type),
        name=name,
        modules=tuple(sorted({*modules_of(section), *modules_of(network)})),
        tokens=tuple(map(str, tokens)),
        shares=tuple(shares),
        vocab_size=files.vocab_size,
        rows=rows,
        end_of_text_id=files.end_of_text_id,
        start=str(start) if start else None,
        tokenizer=str(tokenizer) if tokenizer else None,
        state="",
        events=str(events),
        resume=None,
        compiled=compiles(section, machine, device.type, name, network=network, rows=rows),
        math_library=fastest() if device.type == "cpu" and section.training.precision == "float32" else None,
    )
    # Again, now that all is known of the start and of the machine, whatever was planned.
    here = evolve(machine, memory_gb=None)
    too_large = memory.refusal(network, section.objective, section.training, section.parallelism, job.rows, here)
    if too_large is not None:
        raise StageError(f"{name}: {too_large.reason}")
    meaning = meaning_of(job, section)
    state = NanotronFolder(folder_of(meaning, scratch))
    # A rank whose launcher was killed follows it within moments.
    wait_until_free(state.lock, seconds=30)
    log.info("%s", _length(job, files.num_windows(job.sequence_length)))
    step = _newest(job, state)
    if step > 0:
        log.info("resumes after step %d of %d", step, job.num_steps)
    elif checkpoints(state.checkpoints):
        log.warning("starts afresh; none of its checkpoints in %s has all with it that is to be kept", state.root)
    else:
        take_over(job, state, meaning)
        step = _newest(job, state)
    _refuse_skipped_steps(state, section, name, step)
    if step < job.num_steps:
        job = evolve(job, state=str(state.root), resume=str(state.checkpoint(step)) if step else None)
        _start(job, state, step)
        step = _newest(job, state)
    if step != job.num_steps:
        raise StageError(
            f"{name}: the run has ended, and its newest whole checkpoint is that of step {step} of {job.num_steps}; "
            "`dvc repro` resumes from there"
        )
    logged, training = metrics.read(state.metrics), settled.training
    complete(machine.events, events, name, logged)
    best = metrics.best_step(logged) if training.select == "best" else None
    # Not only after a run: it may have been killed before it came to this.
    shutil.rmtree(state.first_weights, ignore_errors=True)
    keep_newest(state.checkpoints, machine.keep_checkpoints, lambda step: job.keeps(step, logged))
    step = step if best is None else best
    return FinishedRun(
        job=job,
        checkpoint=state.checkpoint(step),
        step=step,
        kept={at: folder for at, folder in checkpoints(state.checkpoints) if training.is_kept(at)},
        metrics=logged,
        timings=metrics.read(state.timings),
        measurements=_measurements(state.measurements),
    )


def _settled(section: TrainSection, sequences: int, name: str) -> TrainSection:
    """The section with the length of the run in steps."""
    settled = evolve(section, training=section.training.settled(sequences))
    broken = [] if settled == section else checks.section_violations(settled, name)
    if broken:
        raise RecipeError(broken)
    return settled


def _length(job: Job, sequences: int) -> str:
    """How long a run is, on a text of so many sequences: `30 steps of 512 tokens, 1.53 epochs`."""
    batch = job.section.training.global_batch_size
    epochs = job.num_steps * batch / sequences
    return f"{job.num_steps:,} steps of {batch * job.sequence_length:,} tokens, {epochs:,.2f} epochs"


def _start(job: Job, state: NanotronFolder, step: int) -> None:
    section = job.section
    if not state.first_weights.exists():
        with artifacts.replacing(state.first_weights) as folder:
            weights.write_unsharded(first_weights(job, folder), job.network, folder)
    state.rewind(step)
    _tell_rounding(job, state)
    artifacts.write_text(state.nanotron_config, yaml.safe_dump(nanotron_configuration(job, state)))
    jobs.write(job, state.job)
    run_ranks(
        job.name,
        "llmrecipe.engines.nanotron.worker",
        [str(state.job)],
        ranks=section.parallelism.world_size,
        threads_per_rank=section.parallelism.threads_per_rank,
        device=job.machine.device,
        environment=environment_of(job),
    )


def _tell_rounding(job: Job, state: NanotronFolder) -> None:
    """Say what makes the steps to come round in another way than those so far."""
    if job.machine.compile and not job.compiled:
        log.info("its layers aren't compiled: %s", obstacle(job.section))
    earlier = artifacts.read_json(state.job) if job.resume and state.job.exists() else {}
    library = earlier.get("math_library", job.math_library)
    if library != job.math_library:
        log.warning(
            "the steps so far were multiplied by %s, and those to come by %s, as is faster on this kind of processor: "
            "they round differently, and the result has other bits than a run on one kind alone",
            library or "torch",
            job.math_library or "torch",
        )
    if earlier.get("compiled", job.compiled) != job.compiled:
        log.warning(
            "the layers of the steps so far were %scompiled, and those to come are%s: they round differently, and the "
            "result has other bits than a run of one kind alone",
            "not " if job.compiled else "",
            "" if job.compiled else "n't",
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


def _newest(job: Job, state: NanotronFolder) -> int:
    return newest(state.checkpoints, metrics.read(state.metrics), job.section.training, job.num_steps)


def _refuse_skipped_steps(state: NanotronFolder, section: TrainSection, name: str, step: int) -> None:
    skipped = [row["step"] for row in metrics.read(state.metrics) if row["step"] <= step and "skipped" in row]
    if skipped and section.training.anomalies.action == "stop":
        raise StageError(
            f"{name}: an earlier launch of this run has skipped step {skipped[0]}, where training.anomalies.action = "
            f"'stop' would have ended it; use 'skip', or delete {state.root} to train again from the start"
        )


def _measurements(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
