"""A teacher's predictions, once for all students of a run."""

import time

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.device import choose_kernels, set_up
from llmrecipe.engines.finetuning.distillation import predicting
from llmrecipe.engines.models.vocabulary import check_tokenizer
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.launch.process import return_freed_memory
from llmrecipe.sections import PredictSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[PredictSection]) -> None:
    """Write what the input `teacher` predicts, of the tokens among the inputs, into `predictions/`.

    `metrics.json` has the sequences of each split, and how large it all is.

    Raises:
        StageError: the tokens are another tokenizer's, or as `predicting.predict`.
    """
    section, teacher, tokens = context.section, context.inputs["teacher"], Tokens.of(context.inputs)
    artifacts.open_artifact(teacher, "model")
    check_tokenizer(teacher, cards.read(teacher, ModelCard), tokens)
    tokens.say_what_is_lost("train", "heldout")
    device = set_up(context.machine)
    if device.type == "cuda":
        choose_kernels(context.machine)
    return_freed_memory()
    card = predicting.card_of(
        teacher,
        tokens,
        top_k=section.top_k,
        seed=section.seed,
        sequences=section.sequences,
        validation_sequences=section.validation_sequences,
    )
    directory, started = context.output / "predictions", time.monotonic()
    predicting.predict(teacher, tokens, card, directory, device)
    read = sum(card.sequences.values()) * card.objective.sequence_length
    context.measured["tokens_per_second"] = round(read / (time.monotonic() - started), 1)
    size = sum(path.stat().st_size for path in directory.rglob("*.safetensors"))
    artifacts.write_json(context.output / "metrics.json", {"bytes": size, "sequences": card.sequences})
