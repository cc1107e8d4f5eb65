"""A training from its section to its last step: starts the ranks, and continues what an earlier run left."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from llmrecipe import artifacts
from llmrecipe.engines.device import set_up
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import metrics, weights
from llmrecipe.engines.nanotron.checkpoint import KIND, checkpoints, keep_newest
from llmrecipe.engines.nanotron.config import nanotron_configuration
from llmrecipe.engines.nanotron.job import Job, StateFolder
from llmrecipe.engines.nanotron.meaning import folder_of, meaning_of, others
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.launch.lock import wait_until_free
from llmrecipe.launch.torchrun import run_ranks
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.sections import PretrainSection

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Trained:
    """What a finished training left."""

    job: Job
    """The training."""

    checkpoint: Path
    """nanotron checkpoint of the step that `training.select` wants."""

    step: int
    """That step."""

    metrics: list[metrics.Row]
    """A row a step: step, tokens, samples, learning_rate, grad_norm, loss, and where there is one validation_loss,
    z_loss and skipped, the reason; a skipped step lacks the numbers that weren't finite."""

    timings: list[metrics.Row]
    """A row a step that this machine ran: step, seconds."""

    measurements: dict[str, Any]
    """What the launch that finished it measured; empty if it was killed before it had written that down.

    communication_percent: by kind (`communication.py`), the share of its steps in which ranks waited for each other,
    as the mean over the ranks. peak_memory_mb: the most memory that each rank held, in megabytes.
    """


def train(section: PretrainSection, *, name: str, tokens: Sequence[Path], runtime: Runtime, scratch: Path) -> Trained:
    """Train, or finish training, on the corpora whose tokens artifacts are given, and return the last state.

    Raises:
        StageError: the corpus is smaller than a batch, the tokenizer lacks tokens of the objective, ranks of an earlier
            run are alive, a step that this recipe would have stopped at was skipped, or a rank failed.
    """
    files = TokenMixture.open(tokens, "train", section.weights)
    _refuse_small_corpora(files, TokenMixture.open(tokens, "heldout", section.weights), section, name)
    if isinstance(section.objective, CausalLM) and section.objective.fill_in_the_middle:
        files.special_ids(section.objective.fill_in_the_middle.tokens)
    job = Job(
        section=section,
        runtime=attrs.evolve(runtime, device=set_up(runtime).type),
        name=name,
        tokens=tuple(map(str, tokens)),
        vocab_size=files.vocab_size,
        end_of_text_id=files.end_of_text_id,
        state="",
        resume=None,
    )
    meaning = meaning_of(job)
    state = StateFolder(folder_of(meaning, scratch))
    # A rank whose launcher was killed follows it within moments.
    wait_until_free(state.root / "ranks.lock", seconds=30)
    select = section.training.select
    step, checkpoint = _newest(state, select)
    if checkpoint is None:
        for folder, differences in others(state.root, meaning):
            log.warning("starts afresh; an earlier training is kept in %s, with %s", folder, ", ".join(differences))
    else:
        log.info("continues after step %d of %d", step, job.num_steps)
    _refuse_skipped_steps(state, section, name, step)
    if step < job.num_steps:
        job = attrs.evolve(job, state=str(state.root), resume=checkpoint and str(checkpoint))
        _start(job, state, step)
        step, checkpoint = _newest(state, select)
    rows = metrics.read(state.metrics)
    best = metrics.best_step(rows) if select == "best" else None
    # Not only after a training: it may have been killed before it came to this.
    shutil.rmtree(state.initial_weights, ignore_errors=True)
    keep_newest(state.checkpoints, runtime.keep_checkpoints, best)
    if best is not None:
        step, checkpoint = best, state.checkpoint(best)
    return Trained(
        job=job,
        checkpoint=checkpoint,
        step=step,
        metrics=rows,
        timings=metrics.read(state.timings),
        measurements=_measurements(state.measurements),
    )


def _start(job: Job, state: StateFolder, step: int) -> None:
    section = job.section
    if not state.initial_weights.exists():
        model, seed = section.model, section.training.seed
        initial = architecture_of(model).initial_weights(model, job.vocab_size, job.end_of_text_id, seed)
        if job.predicts_context:
            initial |= architecture_of(model).initial_context_head(model, seed)
        with artifacts.replacing(state.initial_weights) as folder:
            weights.write_unsharded(initial, section.model, folder)
    for newer, folder in checkpoints(state.checkpoints):
        # Not continued from, since the best one before it is damaged. Its rows go now, so it has to go first.
        if newer > step:
            shutil.rmtree(folder)
    for rows in (state.metrics, state.timings):
        artifacts.write_jsonl(rows, [row for row in metrics.read(rows) if row["step"] <= step])
    artifacts.write_text(state.nanotron_config, yaml.safe_dump(nanotron_configuration(job, state)))
    job.write(state.job)
    run_ranks(
        job.name,
        "llmrecipe.engines.nanotron.worker",
        [str(state.job)],
        ranks=section.parallelism.world_size,
        threads_per_rank=section.parallelism.threads_per_rank,
    )


def _newest(state: StateFolder, select: str) -> tuple[int, Path | None]:
    """Step and folder of the newest whole checkpoint to continue from; (0, None) is the start.

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


def _refuse_skipped_steps(state: StateFolder, section: PretrainSection, name: str, step: int) -> None:
    skipped = [row["step"] for row in metrics.read(state.metrics) if row["step"] <= step and "skipped" in row]
    if skipped and section.training.anomalies.action == "stop":
        raise StageError(
            f"{name}: an earlier run of this training has skipped step {skipped[0]}, where training.anomalies.action = "
            f"'stop' would have ended it; use 'skip', or delete {state.root} to train again from the start"
        )


def _measurements(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _refuse_small_corpora(train: TokenMixture, heldout: TokenMixture, section: PretrainSection, name: str) -> None:
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
                    f"{length}; use more text, a larger corpus.heldout_fraction or a smaller objective.sequence_length"
                )
