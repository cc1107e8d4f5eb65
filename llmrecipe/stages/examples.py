"""Files of examples to checked ones, in three splits."""

import logging
from typing import Any

from llmrecipe import artifacts
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.reading.readers import reader_of
from llmrecipe.recipe.kinds import SPLITS
from llmrecipe.sections import ExamplesSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)


def run(context: StageContext[ExamplesSection]) -> None:
    """Read the files among the inputs into `examples/`.

    `metrics.json` holds, by split, how many examples there are, how often each label occurs, and how many say what a
    training example says.

    Raises:
        StageError: with everything that is wrong with a file; or a split is empty, or has a label of its own.
    """
    task = context.section.task
    reader = reader_of(task)
    files = {split: getattr(task, split) for split in SPLITS if split in context.inputs}
    found = {split: reader.read(context.inputs[split], name) for split, name in files.items()}
    splits = examples.divided(task, found)
    labels = reader.labels_of(splits)
    again = examples.in_training_too(splits, reader.asked)
    for split, count in again.items():
        if count:
            log.warning(
                "%s of %s %s examples say what a training example says, which makes them easier than others",
                f"{count:,}",
                f"{len(splits[split]):,}",
                split,
            )
    examples.write(context.output / "examples", splits, task.tag, labels)
    numbers: dict[str, Any] = {split: {"examples": len(rows)} for split, rows in splits.items()}
    for split, rows in splits.items():
        counts = reader.counted(rows)
        numbers[split] |= {"labels": counts} if counts else {}
    for split, count in again.items():
        numbers[split]["in_training_too"] = count
    artifacts.write_json(context.output / "metrics.json", numbers)
