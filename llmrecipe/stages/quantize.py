"""A transformers model to a smaller one."""

from pathlib import Path

import attrs

from llmrecipe import artifacts, cards
from llmrecipe.cards import HessiansCard, ModelCard
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import show_log
from llmrecipe.engines.device import set_up
from llmrecipe.engines.models.vocabulary import check_tokenizer
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import RecipeError, StageError, Violation
from llmrecipe.launch.process import keep_imported, return_freed_memory
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.scheme_checks import scheme_findings
from llmrecipe.sections import QuantizeSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[QuantizeSection]) -> None:
    """Quantize the input `model`, calibrated on the training split of the tokens among the inputs, into `model/`.

    `metrics.json`: the fields of `report.Report`. The model's card notes layers for which GPTQ failed, and what
    else llmcompressor warned of.

    Raises:
        RecipeError: the scheme doesn't fit the network.
        StageError: the tokens are another tokenizer's or too few, or as `quantization.quantize_and_verify`.
    """
    section, source = context.section, context.inputs["model"]
    artifacts.open_artifact(source, "model")
    card = cards.read(source, ModelCard)
    found = scheme_findings(section, card.network)
    unfit = [Violation(f"{context.name}.{path}", why) for path, why in found]
    if unfit:
        raise RecipeError(unfit)
    tokens = Tokens.of(context.inputs)
    check_tokenizer(source, card, tokens)
    tokens.say_what_is_lost("train")
    device = set_up(context.machine)
    return_freed_memory()
    show_log(context.machine.log_level)
    keep_imported()
    text = CalibrationText(
        tokens=tokens.open("train"),
        sequence_length=card.objective.sequence_length,
        samples=section.calibration_samples,
        seed=section.seed,
    )
    gathered = context.inputs.get("hessians")
    if gathered is not None:
        _check_hessians(gathered, context)
    made = evolve(card, made_by=section.tag, parents=context.parents)
    report = quantization.quantize_and_verify(
        source, context.output / "model", made, section, text, device, context.scratch, gathered
    )
    artifacts.write_json(context.output / "metrics.json", attrs.asdict(report))


def _check_hessians(directory: Path, context: StageContext[QuantizeSection]) -> None:
    artifacts.open_artifact(directory, "hessians")
    card = cards.read(directory, HessiansCard)
    others = [role for role, digest in card.parents.items() if context.parents.get(role) != digest]
    if others:
        raise StageError(
            f"{directory}: these Hessians were gathered of another {others[0]}; `dvc repro` makes them anew"
        )
    for field, has in (("calibration_samples", card.samples), ("seed", card.seed)):
        asked = getattr(context.section, field)
        if asked != has:
            raise StageError(
                f"{context.name}.{field}: {asked}, and {directory} was gathered with {has}; give both the same"
            )
