"""Documents to the same documents and what is made of the training ones."""

from llmrecipe import artifacts
from llmrecipe.engines.augmentation import augment
from llmrecipe.sections import AugmentSection
from llmrecipe.stages.runner import StageContext


def run(context: StageContext[AugmentSection]) -> None:
    """Write the documents, what became of the generated ones, and examples of them."""
    source, directory = context.inputs["documents"], context.output / "documents"
    artifacts.open_artifact(source, "documents")
    metrics, examples, speeds = augment.augment(
        context.section, source, directory, name=context.name, machine=context.machine, scratch=context.scratch
    )
    artifacts.seal(directory, "documents")
    artifacts.write_json(context.output / "metrics.json", metrics)
    artifacts.write_jsonl(context.output / "examples.jsonl", examples)
    if speeds:
        context.measured["tokens_per_second"] = speeds
