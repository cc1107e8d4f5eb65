"""Somebody's model to one that stages can read."""

import logging
from pathlib import Path

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models.importing import import_model
from llmrecipe.engines.tokenizing import folders, gguf
from llmrecipe.errors import RecipeError, StageError, Violation
from llmrecipe.pretrained import place
from llmrecipe.pretrained.reading import read
from llmrecipe.recipe.model import PretrainedModel
from llmrecipe.sections import ImportSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)


def run(context: StageContext[ImportSection]) -> None:
    """Verify the model where it lies, and write what describes it into `model/`, and its tokenizer into `tokenizer/`.

    Its weights stay where they are, if they are a folder's; those of a GGUF file, and those that are to be
    dequantized, are written to `model/`.

    Raises:
        StageError: it isn't there, or its files don't fit together.
        RecipeError: it isn't what the section says it is.
    """
    asked = context.section.model
    found = _locate(asked, context.name)
    reading = read(asked, found)
    if reading.faults:
        raise RecipeError([Violation(f"{context.name}.model.{field}", reason) for field, reason in reading.faults])
    if reading.network is None or reading.objective is None:
        raise StageError(f"{found}: its network can't be read")
    tokenizer = context.output / "tokenizer"
    loaded = gguf.convert(found, tokenizer) if found.is_file() else folders.copy(found, tokenizer)
    artifacts.seal(tokenizer, "tokenizer")
    directory = context.output / "model"
    directory.mkdir()
    log.info("reads and verifies the weights of %s", found)
    import_model(asked, reading, reading.network, found, directory)
    folders.copy_files(tokenizer, directory)
    for note in reading.notes:
        log.warning("%s: %s", asked.name, note)
    card = ModelCard(
        network=reading.network,
        objective=reading.objective,
        vocab_size=len(loaded),
        end_of_text_id=folders.end_of_text_id(loaded),
        tokenizer=artifacts.file_digest(tokenizer / artifacts.MANIFEST),
        made_by=context.section.tag,
        parents=context.parents,
        embedding_rows=None if reading.rows == len(loaded) else reading.rows,
        sparse=asked.sparse,
        notes=reading.notes,
    )
    cards.write(directory, card)
    artifacts.seal(directory, "model")


def _locate(asked: PretrainedModel, name: str) -> Path:
    try:
        return place.download(asked) if asked.hub is not None else place.locate(asked, Path())
    except place.Missing as error:
        raise RecipeError([Violation(f"{name}.model.{error.field}", error.reason)]) from None
