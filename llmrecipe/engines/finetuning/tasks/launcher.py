"""A fine-tuning from its section to its last step."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmrecipe import artifacts, cards, codec, memory
from llmrecipe.cards import ModelCard
from llmrecipe.engines.device import check_precision, set_up
from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.running import FinishedRun, finish, state_of
from llmrecipe.engines.finetuning.tasks import adapting, worker
from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.finetuning.tasks.stopping import best_step, last_step
from llmrecipe.engines.finetuning.tasks.trainer import AVERAGE, BEST
from llmrecipe.engines.models import folders
from llmrecipe.engines.runs.events import refuse_missing
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.engines.tasks import examples as folder
from llmrecipe.engines.tasks.heads import card_of, with_head, work_of
from llmrecipe.errors import RecipeError, StageError, Violation
from llmrecipe.extensions import modules_of
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.fine_tuned_checks import adapted_zeros
from llmrecipe.recipe.kinds import SPLITS
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.training_checks import phase_findings
from llmrecipe.sections import FineTuneSection

log = logging.getLogger(__name__)


def fine_tune(
    section: FineTuneSection,
    *,
    name: str,
    start: Path,
    examples: Path,
    machine: Machine,
    scratch: Path,
    events: Path,
) -> FinishedRun[Job]:
    """Teach a model a task, or finish that.

    Args:
        section: the run.
        name: the stage's, for messages.
        start: the model.
        examples: what it learns from.
        machine: what it runs on.
        scratch: a folder for the resumable states of runs.
        events: a folder for the event files that the machine asks for.

    Raises:
        RecipeError: the section can't work with the model.
        StageError: the examples are another task's, ranks of an earlier launch are alive, a package of the machine's
            events is missing, or a rank failed.
    """
    refuse_missing(machine.events, name)
    artifacts.open_artifact(start, "model")
    known, found = cards.read(start, ModelCard), folder.card_of(examples)
    if found.task != section.task.tag:
        raise StageError(f"{examples}: are examples of {found.task}, and {name} learns {section.task.tag}")
    # Again, since of a model from elsewhere this may only be known now.
    unfit = [Violation(f"{name}.{path}", reason) for path, reason in section.task.misfits(known.network)]
    if section.task.max_length > known.network.max_position_embeddings:
        reason = f"{section.task.max_length}, and the model reads at most {known.network.max_position_embeddings}"
        unfit.append(Violation(f"{name}.task.max_length", f"{reason}; use at most that"))
    adapter = section.training.adapter
    for path, reason in adapter.misfits(known.network) if adapter else ():
        unfit.append(Violation(f"{name}.training.adapter.{path}", reason))
    if adapter and known.sparse:
        unfit.append(Violation(f"{name}.training.adapter", adapted_zeros("the model")))
    if unfit:
        raise RecipeError(unfit)
    here = evolve(machine, memory_gb=None)
    too_large = memory.fine_tuning_refusal(known.network, section.training, section.parallelism, here, known.rows)
    if too_large is not None:
        raise StageError(f"{name}: {too_large}")
    device = set_up(machine)
    check_precision(section.training.precision, device)
    task = card_of(section.task, found.labels, known.network)
    work = work_of(task, folders.load_tokenizer(start))
    read = {split: work.items(folder.read(examples, split)) for split in SPLITS[:2]}
    for split, (left, _) in read.items():
        if not left:
            reason = f"of no {split} example anything is left within max_length = {section.task.max_length} tokens"
            raise StageError(f"{name}.task.max_length: {reason}; use more, or shorter examples")
    items, cut = read["train"]
    if cut:
        log.warning(
            "%s of %s training examples have more than max_length = %d tokens: %s",
            f"{cut:,}",
            f"{found.examples['train']:,}",
            section.task.max_length,
            work.when_too_long,
        )
    job = Job(
        section=section,
        task=task,
        machine=evolve(machine, device=device.type),
        name=name,
        modules=tuple(sorted(modules_of(section))),
        start=str(start),
        examples=str(examples),
        sequences=len(items),
        tokens=sum(item.length for item in items),
        keep_zeros=known.sparse,
        state="",
        events=str(events),
    )
    unfit = [Violation(f"{name}.{path}", reason) for path, reason in phase_findings(job.training, job.sequence_length)]
    if unfit:
        raise RecipeError(unfit)
    state = state_of(scratch, [start, examples], {"section": codec.unstructure(section)})
    each = job.training.validation_interval
    log.info("%s steps, %s an epoch of %s sequences", f"{job.num_steps:,}", f"{each:,}", f"{len(items):,}")
    return finish(job, worker.__name__, state, lambda rows: last_step(rows, job.tuning.early_stopping))


def model_of(run: FinishedRun[Job], adapter: Path | None = None) -> tuple[Any, int]:
    """The model with what it has learned, on the CPU, and the step whose weights it has.

    Args:
        run: the run.
        adapter: a new folder for the adapter by itself, before it is merged.
    """
    job = run.job
    work = job.work()
    # What it drops is the run's; whoever goes on from it has what the start was published with.
    model: Any = with_head(Path(job.start), work, seed=job.training.seed, dropout=None)
    hand = adapting.adapted(model, work, job.tuning.adapter, job.training.seed) if job.tuning.adapter else None
    last = int(run.metrics[-1]["step"])
    part, step = _handed_on(job, run.metrics, last)
    states.put(states.load(run.state.checkpoint(last), part), model)
    if hand is not None:
        if adapter is not None:
            adapting.save(hand, adapter)
        model = adapting.merged(hand)
    return model, step


def trained_parameters(run: FinishedRun[Job]) -> int:
    """How many weights have learned."""
    checkpoint = run.state.checkpoint(int(run.metrics[-1]["step"]))
    return sum(weight.numel() for weight in states.load(checkpoint, states.WEIGHTS).values())


def probe(job: Job) -> torch.Tensor:
    """Tokens to compare what models compute by: `int64[1, length]`."""
    work = job.work()
    return work.probe(work.items(folder.read(Path(job.examples), "train"))[0])


def _handed_on(job: Job, rows: Sequence[Row], last: int) -> tuple[str, int]:
    """Which part of the last checkpoint it is, and its step."""
    best = best_step(rows)
    if job.tuning.select == "best" and best is not None:
        return BEST, best
    return (states.WEIGHTS if job.tuning.average_decay is None else AVERAGE), last
