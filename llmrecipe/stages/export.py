"""Trained weights to a directory in the transformers format, checked against the engine that trained them."""

import json

from llmrecipe import artifacts, codec
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import weights
from llmrecipe.engines.nanotron.parity import logits_difference
from llmrecipe.errors import StageError
from llmrecipe.recipe.model import Model
from llmrecipe.stages.runner import StageContext


def run(context: StageContext) -> None:
    """Convert, save, load back and compare logits in float32.

    Raises:
        StageError: the saved model's logits differ from nanotron's by more than the section's tolerance.
    """
    checkpoint, tokenizer = context.inputs["checkpoint"], context.inputs["tokenizer"]
    artifacts.open_artifact(checkpoint, "checkpoint")
    artifacts.open_artifact(tokenizer, "tokenizer")
    description = json.loads((checkpoint / "model.json").read_text(encoding="utf-8"))
    model = codec.structure(description["model"], Model, "model")
    sizes = description["vocab_size"], description["end_of_text_id"]
    trained = weights.load(checkpoint)
    folder = context.output / "model"
    folders.save_model(architecture_of(model).transformers_network(trained, model, *sizes), tokenizer, folder)
    artifacts.seal(folder, "model")

    difference = logits_difference(trained, model, *sizes, folder)
    # Not `>`, which is false for NaN.
    if not difference <= context.section.logits_tolerance:
        raise StageError(
            f"{context.name}: logits of the exported model differ from nanotron's by {difference:.2e}, more than "
            f"logits_tolerance = {context.section.logits_tolerance:.0e}; the export is wrong, please report it"
        )
    context.measured["logits_difference"] = difference
