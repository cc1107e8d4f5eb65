"""Measurements to a comparison."""

from llmrecipe import artifacts
from llmrecipe.engines.evaluation import comparison
from llmrecipe.sections import ReportSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[ReportSection]) -> None:
    """Compare models by what was measured of each; the first one among the inputs is the reference.

    `metrics.json` holds by model its `size_mb` (weights files, 1 MB = 10^6 bytes), the numbers of its measurements, and
    for all but the first `recovery_percent` with `recovery_by`; see `comparison`.

    Raises:
        StageError: an input is no whole model or no JSON file.
    """
    compared = comparison.compare(comparison.read(context.inputs))
    artifacts.write_json(context.output / "metrics.json", compared)
