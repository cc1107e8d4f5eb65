"""A model and a text to what quantization needs to know of both."""

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.gathering import gather
from llmrecipe.engines.compression.oneshot import show_log
from llmrecipe.engines.device import set_up
from llmrecipe.engines.models.vocabulary import check_tokenizer
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.launch.process import keep_imported, return_freed_memory
from llmrecipe.sections import HessiansSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[HessiansSection]) -> None:
    """Read the training split of the tokens among the inputs with the input `model`, and gather into `hessians/`.

    Raises:
        StageError: the tokens are another tokenizer's or too few, or as `gather`.
    """
    section, source = context.section, context.inputs["model"]
    artifacts.open_artifact(source, "model")
    card = cards.read(source, ModelCard)
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
    output = context.output / "hessians"
    output.mkdir()
    gather(source, output, context.parents, text, device, context.scratch)
    artifacts.seal(output, "hessians")
