"""A teacher's predictions to files, once for all students of a run."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from llmrecipe import artifacts, cards, identity
from llmrecipe.cards import ModelCard, PredictionsCard
from llmrecipe.engines.finetuning.distillation.batches import UNLABELLED, Reader, Sample
from llmrecipe.engines.finetuning.distillation.models import load_teacher
from llmrecipe.engines.finetuning.distillation.predictions import StoredPredictions, sequences_a_file, top
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import StageError
from llmrecipe.progress import told

KIND = "predictions"

_MOST_LOGITS = 1 << 26
"""Logits of what the teacher reads at once."""


def card_of(
    teacher: Path, tokens: Tokens, *, top_k: int, seed: int, sequences: int, validation_sequences: int
) -> PredictionsCard:
    """What the predictions of a teacher for a run are.

    Args:
        teacher: its folder.
        tokens: what it reads.
        top_k: tokens that are named for each place.
        seed: the run's.
        sequences: those of the run.
        validation_sequences: held-out sequences, if there are as many.
    """
    objective = cards.read(teacher, ModelCard).objective
    there = tokens.open("heldout").num_windows(objective.sequence_length)
    return PredictionsCard(
        objective=objective,
        top_k=top_k,
        seed=seed,
        sequences={"train": sequences, "heldout": min(validation_sequences, there)},
        shares=tokens.shares,
        teacher=identity.of_artifact(teacher),
        tokens=tuple(map(identity.of_artifact, tokens.directories.values())),
    )


def predict(teacher: Path, tokens: Tokens, card: PredictionsCard, directory: Path, device: torch.device) -> None:
    """Write the predictions that `card` says to `directory`, an artifact then.

    Raises:
        StageError: the teacher can't be loaded, or has fewer tokens than are to be named.
    """
    vocab_size = cards.read(teacher, ModelCard).vocab_size
    if card.top_k > vocab_size:
        raise StageError(f"top_k: {card.top_k:,} of the {vocab_size:,} tokens of {teacher}; use at most {vocab_size:,}")
    model = load_teacher(teacher).to(device)
    for split, count in card.sequences.items():
        reader = Reader.for_objective(tokens.open(split), split, card.objective, card.seed)
        samples = reader.heldout_samples(count) if split == "heldout" else reader.training_samples(0, count)
        files = StoredPredictions(directory / split, sequences_a_file(card.objective.sequence_length, card.top_k))
        _write(model, reader, samples, card.top_k, vocab_size, files)
    cards.write(directory, card)
    artifacts.seal(directory, KIND)


@torch.no_grad()
def _write(
    teacher: PreTrainedModel,
    reader: Reader,
    samples: Sequence[Sample],
    top_k: int,
    vocab_size: int,
    to: StoredPredictions,
) -> None:
    to.directory.mkdir(parents=True)
    at_once = max(1, _MOST_LOGITS // (reader.objective.sequence_length * vocab_size))
    for number, first in enumerate(told(range(0, len(samples), to.sequences_a_file), "predicting")):
        part = samples[first : first + to.sequences_a_file]
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        starts = [0]
        for start in range(0, len(part), at_once):
            batch = reader.read(part[start : start + at_once])
            places = batch.pop("labels") != UNLABELLED
            given = {name: tensor.to(teacher.device) for name, tensor in batch.items()}
            logits = teacher(**given, use_cache=False).logits[places.to(teacher.device)]
            ids, likely = top(logits[:, :vocab_size], top_k)
            found.append((ids.cpu(), likely.cpu()))
            starts += places.sum(1).tolist()
        ids, likely = (torch.cat(each) for each in zip(*found, strict=True))
        tensors = {"ids": ids, "log_probabilities": likely, "starts": torch.tensor(starts).cumsum(0)}
        save_file(tensors, to.file(number))


def check(directory: Path, needed: PredictionsCard) -> None:
    """Refuse predictions that aren't those that a run needs.

    Raises:
        StageError: they are for another run.
    """
    artifacts.open_artifact(directory, KIND)
    stored = cards.read(directory, PredictionsCard)
    names = [field.name for field in attrs.fields(PredictionsCard)]
    differing = [name for name in names if getattr(stored, name) != getattr(needed, name)]
    if differing:
        raise StageError(
            f"{directory}: predictions for another run, of another {', another '.join(differing)}; run "
            "`llmrecipe plan` and `dvc repro`"
        )
