"""Token files to trained weights, with the curves of the training."""

from collections.abc import Sequence
from typing import Any

from llmrecipe import artifacts, codec
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.training import Trained, train
from llmrecipe.stages.runner import StageContext

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
    job, section = trained.job, context.section
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
            "epochs": _epochs(context, trained),
        },
    )
    _measure(context, trained)


def _epochs(context: StageContext, trained: Trained) -> dict[str, float] | float:
    """How often the training has gone through its corpus, or through each one of a mixture."""
    job = trained.job
    order = job.open_tokens("train").order(job.sequence_length, job.section.training.seed)
    drawn = order.drawn(len(trained.metrics) * job.section.training.global_batch_size)
    epochs = [samples / size for samples, size in zip(drawn, order.sizes, strict=True)]
    by_corpus = dict(zip(context.corpora("tokens"), epochs, strict=True))
    return by_corpus.get("", by_corpus)


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
