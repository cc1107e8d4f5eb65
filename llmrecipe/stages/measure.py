"""A model to numbers."""

from llmrecipe import artifacts
from llmrecipe.engines.device import peak_memory_mb, processor, set_up
from llmrecipe.engines.evaluation import measuring
from llmrecipe.engines.evaluation.measuring import LoadedModel
from llmrecipe.sections import MeasureSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[MeasureSection]) -> None:
    """Measure the input `model` on the held-out split of the tokens among the inputs, if the measure reads text.

    `metrics.json` holds the numbers by name. Perplexity: that of the model's objective, so `perplexity` and
    `bits_per_byte`, or `masked_perplexity` and `masked_accuracy_percent`; PseudoPerplexity: `pseudo_perplexity`. Where
    the tokens lost text, there is `text_lost_percent`, of its characters, and no number in bytes. For scale it holds,
    below `unigram`, those of the unigram model, which knows how often each token occurs in the training split and
    nothing else. In a mixture loss and accuracy are the means over its corpora, weighted by their shares, and `corpora`
    holds the numbers of each. Where training restarted at documents, so does the reading, so the loss is that of its
    validation. The files next to it are those of the measure (`Measure.files`).

    Raises:
        StageError: as `LoadedModel.open` and `measuring.measure`.
    """
    asked, device = context.section.measure, set_up(context.machine)
    model = LoadedModel.open(context.inputs, asked, device)
    artifacts.write_json(context.output / "metrics.json", measuring.measure(asked, model, context.output))
    memory = peak_memory_mb(device.type)
    context.measured.update(model.timed, processor=processor(device), peak_memory_mb=memory)
