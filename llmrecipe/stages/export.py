"""Trained weights to a directory in the transformers format, checked against the engine that trained them."""

import logging
from pathlib import Path

from llmrecipe import artifacts, cards, identity
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.parity import agreement, altered_weights
from llmrecipe.engines.runs import metrics
from llmrecipe.errors import StageError
from llmrecipe.launch.process import return_freed_memory
from llmrecipe.recipe.evolve import evolve
from llmrecipe.sections import ExportSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)


def run(context: StageContext[ExportSection]) -> None:
    """Convert, save, load back, and compare the logits and every weight.

    Raises:
        StageError: the checkpoint is neither of the run's last step nor of its best, the tokenizer isn't the one that
            it was trained with, the saved model's logits differ from nanotron's by more than rounding explains, or it
            doesn't hold the trained weights.
    """
    checkpoint, tokenizer = context.inputs["checkpoint"], context.inputs["tokenizer"]
    artifacts.open_artifact(checkpoint, "checkpoint")
    artifacts.open_artifact(tokenizer, "tokenizer")
    card = cards.read(checkpoint, ModelCard)
    _refuse_step(checkpoint, card)
    _refuse_tokenizer(checkpoint, card, tokenizer)
    facts = card.network, card.rows, card.end_of_text_id
    log.info("writes the weights of step %d for transformers", card.step)
    return_freed_memory()
    trained = weights.load(checkpoint)
    folder = context.output / "model"
    architecture = architecture_of(card.network)
    config = architecture.transformers_config(*facts)
    start = context.inputs.get("start")
    if start is not None:
        keeps_tokens = cards.read(start, ModelCard).tokenizer == card.tokenizer
        config = folders.continued_config(start, config, keeps_tokens=keeps_tokens)
    state = architecture.to_transformers(trained, card.network, card.rows, context.scratch)
    folders.save_model(architecture.assembled(config, state), tokenizer, folder)
    if start is not None and keeps_tokens:
        folders.copy_generation(start, folder)
    cards.write(folder, evolve(card, made_by=context.section.tag, parents=context.parents))
    artifacts.seal(folder, "model")

    log.info("compares what it computes with what was trained")
    found = agreement(trained, *facts, folder)
    if not found.is_explained_by_rounding:
        raise StageError(
            f"{context.name}: logits of the exported model differ from nanotron's by {found.difference:.2e}, and "
            f"rounding to float32 changes them by {found.rounding:.2e} (the largest is {found.largest:.3g}); the "
            "export is wrong, please report it"
        )
    altered = altered_weights(trained, card.network, card.rows, folder)
    if altered:
        raise StageError(
            f"{context.name}: the exported model doesn't hold the trained weights of {', '.join(altered)}; the export "
            "is wrong, please report it"
        )
    if found.proves_nothing:
        log.warning(
            "the weights are so large that rounding to float32 changes logits by %.2g, and the largest is %.2g: "
            "whether the exported model computes the same can't be told; it holds the same weights",
            found.rounding,
            found.largest,
        )
    context.measured.update(logits_difference=found.difference, logits_rounding=found.rounding)


def _refuse_step(checkpoint: Path, card: ModelCard) -> None:
    rows = metrics.read(checkpoint / "metrics.jsonl")
    last, best = rows[-1]["step"] if rows else None, metrics.best_step(rows)
    if card.step is None or card.step not in (last, best):
        raise StageError(
            f"{checkpoint}: its weights are those of step {card.step}, which is neither the last of the run ({last}) "
            f"nor its best ({best}); run its training again with `dvc repro --force`"
        )


def _refuse_tokenizer(checkpoint: Path, card: ModelCard, tokenizer: Path) -> None:
    if card.tokenizer != identity.of_artifact(tokenizer):
        raise StageError(f"{checkpoint}: it was trained with another tokenizer than {tokenizer}; run `dvc repro`")
