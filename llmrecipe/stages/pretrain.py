"""Token files to trained weights, with the curves of the training."""

import logging
from collections.abc import Sequence
from typing import Any

from llmrecipe import artifacts, codec
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.launcher import Trained, train
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.sections import PretrainSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)

CURVES = ("step", "tokens", "loss", "learning_rate", "grad_norm")
VALIDATION = ("step", "validation_loss")


def run(context: StageContext) -> None:
    """Train with nanotron and keep the whole weights of the selected step."""
    trained = train(
        context.section,
        name=context.name,
        tokens=list(context.corpora("tokens").values()),
        runtime=context.runtime,
        scratch=context.scratch,
    )
    job, section, read = trained.job, context.section, _read(context)
    for corpus, part in read.get("corpora", {}).items():
        log.info(
            "%s: %d sequences, %.1f %%, %.2f epochs", corpus, part["sequences"], 100 * part["share"], part["epochs"]
        )
    folder = context.output / "checkpoint"
    folder.mkdir()
    weights.save(weights.read_whole(trained.checkpoint), folder)
    description = {
        "model": codec.unstructure(section.model),
        "vocab_size": job.vocab_size,
        "end_of_text_id": job.end_of_text_id,
    }
    artifacts.write_json(folder / "model.json", description)
    artifacts.write_jsonl(folder / "metrics.jsonl", trained.metrics)
    artifacts.seal(folder, "checkpoint")
    # Two files, since DVC draws an empty cell as 0.
    for name, columns in (("curves.csv", CURVES), ("validation.csv", VALIDATION)):
        artifacts.write_csv(context.output / name, columns, _table(trained, columns))
    last, selected = trained.metrics[-1], trained.metrics[trained.step - 1]
    artifacts.write_json(
        context.output / "metrics.json",
        {
            # A step that was skipped may have had no loss to speak of.
            "loss": selected.get("loss"),
            "validation_loss": selected["validation_loss"],
            "selected_step": trained.step,
            "steps": last["step"],
            "skipped_steps": sum("skipped" in row for row in trained.metrics),
            "tokens": last["tokens"],
            "parameters": section.model.num_parameters(job.vocab_size),
        }
        | read,
    )
    _measure(context, trained)


def _read(context: StageContext) -> dict[str, Any]:
    """How much the training has read: `epochs` of its corpus, or `corpora` with what it read of each of a mixture."""
    section: PretrainSection = context.section
    length, directories = section.objective.sequence_length, context.corpora("tokens")
    order = TokenMixture.open(list(directories.values()), "train", section.weights).order(length, section.training.seed)
    total = section.training.num_steps(length) * section.training.global_batch_size
    parts = {
        corpus: {"sequences": drawn, "share": drawn / total, "epochs": drawn / size}
        for corpus, drawn, size in zip(directories, order.drawn(total), order.sizes, strict=True)
    }
    return {"epochs": parts[""]["epochs"]} if "" in parts else {"corpora": parts}


def _table(trained: Trained, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of the steps that have them all."""
    return [{name: row[name] for name in columns} for row in trained.metrics if row.keys() >= set(columns)]


def _measure(context: StageContext, trained: Trained) -> None:
    tokens_per_step = trained.metrics[0]["tokens"]
    context.curves["throughput"] = [
        {"step": row["step"], "tokens_per_second": round(tokens_per_step / row["seconds"], 1)}
        for row in trained.timings
    ]
    seconds = sum(row["seconds"] for row in trained.timings)
    context.measured["tokens_per_second"] = round(tokens_per_step * len(trained.timings) / seconds, 1)
    context.measured.update(trained.measurements)
    context.measured["ranks"] = context.section.parallelism.world_size
