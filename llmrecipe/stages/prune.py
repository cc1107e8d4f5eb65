"""A transformers model to one of which a part is left out."""

import attrs

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import pruning
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import show_log
from llmrecipe.engines.device import set_up
from llmrecipe.engines.models.vocabulary import check_tokenizer
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import RecipeError, Violation
from llmrecipe.launch.process import keep_imported, return_freed_memory
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.pruning_checks import pruning_findings
from llmrecipe.sections import PruneSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[PruneSection]) -> None:
    """Prune the input `model`, by the training split of the tokens among the inputs if it reads any, into `model/`.

    `metrics.json`: the fields of `pruning.Report`. The model's card says whether it is sparse, and what llmcompressor
    warned of.

    Raises:
        RecipeError: the method doesn't fit the network.
        StageError: the tokens are another tokenizer's or too few, or as `pruning.prune_and_verify`.
    """
    section, source = context.section, context.inputs["model"]
    artifacts.open_artifact(source, "model")
    card = cards.read(source, ModelCard)
    found = pruning_findings(section.method, card.network)
    unfit = [Violation(f"{context.name}.{path}", why) for path, why in found]
    if unfit:
        raise RecipeError(unfit)
    text = None
    if section.method.reads_text:
        tokens = Tokens.of(context.inputs)
        check_tokenizer(source, card, tokens)
        tokens.say_what_is_lost("train")
        text = CalibrationText(
            tokens=tokens.open("train"),
            sequence_length=card.objective.sequence_length,
            samples=section.calibration_samples,
            seed=section.seed,
        )
    device = set_up(context.machine)
    return_freed_memory()
    show_log(context.machine.log_level)
    keep_imported()
    made = evolve(card, made_by=section.tag, parents=context.parents)
    report = pruning.prune_and_verify(
        source, context.output / "model", made, section.method, text, device, context.scratch
    )
    artifacts.write_json(context.output / "metrics.json", attrs.asdict(report))
