"""Measurements to a comparison."""

from llmrecipe import artifacts
from llmrecipe.engines.evaluation import comparison, frontier
from llmrecipe.sections import FRONTIER, ReportSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[ReportSection]) -> None:
    """Compare models by what was measured of each; the first one among the inputs is the reference.

    `metrics.json` holds by model its `size_mb` (weights files, 1 MB = 10^6 bytes), the numbers of its measurements, and
    for all but the first `recovery_percent` and what belongs to it; see `recovery.recovery`. `frontier.svg` shows what
    they keep for their size.

    Raises:
        StageError: an input is no whole model or no JSON file.
    """
    models = comparison.read(context.inputs)
    compared = comparison.compare(models)
    artifacts.write_json(context.output / "metrics.json", compared)
    drawn = frontier.draw(frontier.points(compared, models[0].name), context.name.removesuffix("-report"))
    artifacts.write_text(context.output / FRONTIER, drawn)
