"""Token files to trained weights, with the curves of the run."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard, TokensCard
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.launcher import FinishedRun, train
from llmrecipe.engines.runs.metrics import Row
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import RecipeError
from llmrecipe.recipe import checks
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.networks.network import Network
from llmrecipe.sections import TrainSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)

CURVES = ("step", "tokens", "loss", "learning_rate", "grad_norm")
VALIDATION = ("step", "validation_loss")


def run(context: StageContext[TrainSection]) -> None:
    """Train with nanotron and keep the whole weights of the selected step, and of those of `training.keep_every`.

    Raises:
        RecipeError: the section can't work with the network of the model that it starts from.
        StageError: as `train`.
    """
    start = context.inputs["start"] if context.section.network is None else None
    if start is not None:
        _refuse_unfit(context.section, cards.read(start, ModelCard).network, context.name)
    tokens = Tokens.of(context.inputs)
    tokens.say_what_is_lost("train", "heldout")
    directories = list(tokens.directories.values())
    finished = train(
        context.section,
        name=context.name,
        tokens=directories,
        shares=tokens.shares,
        start=start,
        tokenizer=context.inputs["tokenizer"] if context.section.resize_embeddings else None,
        machine=context.machine,
        scratch=context.scratch,
        # A dot is in no stage's name, so no other stage's folder is called so.
        events=context.output.parent / "train.events",
    )
    job, section, training = finished.job, context.section, finished.job.section.training
    read = tokens.read(job.sequence_length, training.seed, job.num_steps * training.global_batch_size)
    for corpus, part in read.get("corpora", {}).items():
        log.info(
            "%s: %d sequences, %.1f %%, %.2f epochs", corpus, part["sequences"], 100 * part["share"], part["epochs"]
        )
    card = ModelCard(
        network=job.network,
        objective=section.objective,
        vocab_size=job.vocab_size,
        end_of_text_id=job.end_of_text_id,
        tokenizer=cards.read(directories[0], TokensCard).tokenizer,
        made_by=section.tag,
        parents=context.parents,
        step=finished.step,
        notes=() if start is None else cards.read(start, ModelCard).notes,
        embedding_rows=None if job.rows == job.vocab_size else job.rows,
    )
    _keep(finished.checkpoint, card, finished.metrics, context.output / "checkpoint", context.scratch)
    for step, checkpoint in finished.kept.items():
        rows = [row for row in finished.metrics if row["step"] <= step]
        _keep(checkpoint, evolve(card, step=step), rows, context.output / "kept" / str(step), context.scratch)
    # Two files, since DVC draws an empty cell as 0.
    for name, columns in (("curves.csv", CURVES), ("validation.csv", VALIDATION)):
        artifacts.write_csv(context.output / name, columns, _table(finished, columns))
    last, selected = finished.metrics[-1], finished.metrics[finished.step - 1]
    artifacts.write_json(
        context.output / "metrics.json",
        {
            # A step that was skipped may have had no loss to speak of.
            "loss": selected.get("loss"),
            "validation_loss": selected["validation_loss"],
            "selected_step": finished.step,
            "steps": last["step"],
            "skipped_steps": sum("skipped" in row for row in finished.metrics),
            "tokens": last["tokens"],
            "parameters": job.network.num_parameters(job.rows),
        }
        | read,
    )
    _measure(context, finished)


def _keep(state: Path, card: ModelCard, rows: Sequence[Row], folder: Path, scratch: Path) -> None:
    """Make `folder` an artifact of the whole weights of a resumable state."""
    folder.mkdir(parents=True)
    weights.save(weights.read_whole(state, scratch), folder)
    cards.write(folder, card)
    artifacts.write_jsonl(folder / "metrics.jsonl", rows)
    artifacts.seal(folder, "checkpoint")


def _refuse_unfit(section: TrainSection, network: Network, name: str) -> None:
    broken = checks.section_violations(evolve(section, network=network), name)
    if broken:
        raise RecipeError(broken)


def _table(finished: FinishedRun, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of the steps that have them all."""
    return [{name: row[name] for name in columns} for row in finished.metrics if row.keys() >= set(columns)]


def _measure(context: StageContext[TrainSection], finished: FinishedRun) -> None:
    tokens_per_step = finished.metrics[0]["tokens"]
    context.curves["throughput"] = [
        {"step": row["step"], "tokens_per_second": round(tokens_per_step / row["seconds"], 1)}
        for row in finished.timings
    ]
    seconds = sum(row["seconds"] for row in finished.timings)
    context.measured["tokens_per_second"] = round(tokens_per_step * len(finished.timings) / seconds, 1)
    context.measured.update(finished.measurements)
    context.measured["ranks"] = context.section.parallelism.world_size
