"""Which tokens of a sequence are masked, and what is put in their place: a function of seed, epoch and sequence."""

import attrs
import numpy as np

from llmrecipe.recipe.masking import SingleTokens, Spans, WholeWords
from llmrecipe.recipe.objective import MaskedLM, MultiMaskLM

_STREAM = 0x6D61736B
"""Sets the draws of masks apart from those of the sample order, which are of seed and epoch, too."""


@attrs.frozen(kw_only=True, eq=False)
class MaskedVocabulary:
    """What masking needs to know of a tokenizer."""

    mask_id: int
    """The mask token."""

    is_special: np.ndarray
    """By token, whether it is special, `bool[vocab_size]`."""

    starts_word: np.ndarray
    """By token, whether a word begins with it, `bool[vocab_size]`."""

    @property
    def ordinary(self) -> np.ndarray:
        """The tokens that aren't special."""
        return np.flatnonzero(~self.is_special)


@attrs.frozen(kw_only=True, eq=False)
class MaskedSequence:
    """A sequence as the model reads it, and what it is to predict."""

    input_ids: np.ndarray
    """The tokens, some of them replaced, `[length]`."""

    positions: np.ndarray
    """Where a token is predicted, in ascending order."""

    first_positions: np.ndarray
    """Where a span begins, rising; every masked token is one of its own unless spans are masked."""


def mask(
    tokens: np.ndarray,
    objective: MaskedLM | MultiMaskLM,
    vocabulary: MaskedVocabulary,
    *,
    seed: int,
    epoch: int,
    window: int,
) -> MaskedSequence:
    """Mask `tokens` `[length]` for this epoch.

    Args:
        tokens: a sequence.
        objective: how much of it is masked, in what units, and what is put in its place.
        vocabulary: what masking needs to know of the tokenizer.
        seed: that of the run.
        epoch: how often the corpus has been read before.
        window: the number of the sequence.
    """
    generator = np.random.default_rng([seed, epoch, window, _STREAM])
    can_be_masked = ~vocabulary.is_special[tokens]
    available = int(np.count_nonzero(can_be_masked))
    wanted = min(available, max(1, round(objective.mask_rate * available)))
    match objective.masking:
        case SingleTokens():
            units = _single_tokens(can_be_masked, wanted, generator)
        case WholeWords():
            units = _words(can_be_masked, vocabulary.starts_word[tokens], wanted, generator)
        case Spans():
            units = _spans(can_be_masked, wanted, objective.masking, generator)
    first = np.array([start for start, _ in units], dtype=np.int64)
    lengths = np.array([length for _, length in units], dtype=np.int64)
    positions = np.repeat(first - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    is_together = isinstance(objective.masking, Spans)
    draws = generator.random(len(units) if is_together else len(positions))
    draws = np.repeat(draws, lengths) if is_together else draws
    random_tokens = generator.choice(vocabulary.ordinary, len(positions))
    input_ids = tokens.copy()
    becomes_mask = draws < objective.mask_share
    becomes_random = ~becomes_mask & (draws < objective.mask_share + objective.random_share)
    input_ids[positions[becomes_mask]] = vocabulary.mask_id
    input_ids[positions[becomes_random]] = random_tokens[becomes_random]
    return MaskedSequence(input_ids=input_ids, positions=positions, first_positions=first)


Units = list[tuple[int, int]]
"""Start and length of what is masked together, in the order of the sequence."""


def _single_tokens(can_be_masked: np.ndarray, wanted: int, generator: np.random.Generator) -> Units:
    chosen = generator.permutation(np.flatnonzero(can_be_masked))[:wanted]
    return [(int(position), 1) for position in np.sort(chosen)]


def _words(can_be_masked: np.ndarray, starts_word: np.ndarray, wanted: int, generator: np.random.Generator) -> Units:
    """Words in random order, those that would be too much left out; one at least."""
    follows = np.concatenate([[False], can_be_masked[:-1]])
    starts = np.flatnonzero(can_be_masked & (starts_word | ~follows))
    # A word ends at the next one, or at a token that can't be masked.
    stops = np.flatnonzero(np.concatenate([starts_word | ~can_be_masked, [True]]))
    lengths = stops[np.searchsorted(stops, starts, side="right")] - starts
    words = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    chosen: Units = []
    left = wanted
    for index in generator.permutation(len(words)):
        length = words[index][1]
        if length <= left:
            chosen.append(words[index])
            left -= length
    if not chosen and words:
        chosen = [min(words, key=lambda word: word[1])]
    return sorted(chosen)


def _spans(can_be_masked: np.ndarray, wanted: int, spans: Spans, generator: np.random.Generator) -> Units:
    """Spans of `wanted` tokens in all, as far as there is room; each at one of the places left, all equally likely."""
    lengths: list[int] = []
    while sum(lengths) < wanted:
        length = min(int(generator.geometric(spans.success_probability)), spans.max_length)
        lengths.append(min(length, wanted - sum(lengths)))
    is_free = can_be_masked.copy()
    # There has to be something before a span.
    is_free[:1] = False
    chosen: Units = []
    # The long ones first, while there is room for them.
    for wanted_length in sorted(lengths, reverse=True):
        for length in range(wanted_length, 0, -1):
            free_before = np.concatenate([[0], np.cumsum(is_free)])
            starts = np.flatnonzero(free_before[length:] - free_before[:-length] == length)
            if len(starts):
                start = int(starts[generator.integers(len(starts))])
                chosen.append((start, length))
                is_free[start - 1 : start + length + 1] = False
                break
    return sorted(chosen)
