"""Whether there is enough text for a run."""

from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError


def refuse_small_corpora(train: TokenMixture, heldout: TokenMixture, length: int, batch: int, name: str) -> None:
    """Refuse text that has no batch of a run, or no sequence of a corpus.

    Args:
        train: what it reads.
        heldout: what it is measured on.
        length: tokens of a sequence.
        batch: sequences of a step.
        name: the stage's, for the message.

    Raises:
        StageError: it is such text.
    """
    windows = train.num_windows(length)
    if windows < batch:
        raise StageError(
            f"{name}: the training split has {train.num_tokens:,} tokens, {windows} sequences of {length}, fewer "
            f"than one batch of {batch}; use more text, a smaller training.global_batch_size or a shorter "
            "objective.sequence_length"
        )
    for split, mixture in (("training", train), ("held-out", heldout)):
        for number, files in enumerate(mixture.corpora):
            if files.num_windows(length) == 0:
                where = f" of parts[{number}]" if len(mixture.corpora) > 1 else ""
                raise StageError(
                    f"{name}: the {split} split{where} has {files.num_tokens:,} tokens, less than one sequence of "
                    f"{length}; use more text, a larger heldout of the corpus or a smaller objective.sequence_length"
                )
