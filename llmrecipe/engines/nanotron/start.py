"""Where a run starts: from first weights of its network, or from those of a model that exists."""

from collections.abc import Sequence
from pathlib import Path

import torch

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard, TokensCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.resizing import resized
from llmrecipe.engines.models.stored import on_disk
from llmrecipe.engines.models.table import Weights
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.errors import StageError
from llmrecipe.pretrained.folder import CONFIG


def card_of_start(directory: Path, tokens: Sequence[Path], *, resize_embeddings: bool) -> ModelCard:
    """The card of the model in `directory`, which a run on these tokens can start from.

    Raises:
        StageError: it is no whole model, is quantized, or the tokens are not those of its tokenizer.
    """
    artifacts.open_artifact(directory, "model")
    card = cards.read(directory, ModelCard)
    if "quantization_config" in artifacts.read_json(directory / CONFIG):
        raise StageError(
            f"{directory}: its weights are quantized, and rounded weights learn nothing from small steps; start from "
            "the model that it was made from"
        )
    for each in () if resize_embeddings else tokens:
        read = cards.read(each, TokensCard)
        differences = [
            f"{what} {mine} ≠ {theirs}"
            for what, mine, theirs in (
                ("vocabulary of", card.vocab_size, read.vocab_size),
                ("end of text", card.end_of_text_id, read.end_of_text_id),
                ("tokenizer", card.tokenizer[:16], read.tokenizer[:16]),
            )
            if mine != theirs
        ]
        if differences:
            raise StageError(
                f"{directory}: its tokenizer is not that of {each} ({', '.join(differences)}), so it would read other "
                "words than it has learned; train it further in its own tokens: leave `tokenizer` out, or use "
                "resize_embeddings=True"
            )
    return card


def first_weights(job: Job, scratch: Path) -> Weights:
    """The weights of step 0, whole, in float32, under nanotron's names.

    Those that lie in no file already, and weren't drawn, are kept in files in `scratch`.

    Raises:
        StageError: the model that the run starts from can't be loaded.
    """
    architecture, seed = architecture_of(job.network), job.section.training.seed
    if job.start is None:
        first = architecture.first_weights(job.network, job.rows, job.end_of_text_id, seed, scratch)
    else:
        stored = folders.load_model(Path(job.start)).state_dict()
        state = {
            name: tensor if tensor.dtype == torch.float32 else on_disk(tensor.float(), scratch)
            for name, tensor in stored.items()
        }
        first = architecture.from_transformers(state, job.network, scratch)
        if job.tokenizer is not None:
            before, after = (folders.load_tokenizer(Path(folder)).get_vocab() for folder in (job.start, job.tokenizer))
            rows = job.network.padded_vocab_size(job.rows)
            first = resized(first, architecture.weights(job.network), before, after, rows)
    return first | architecture.context_head(job.network, seed) if job.options.predicts_context else first
