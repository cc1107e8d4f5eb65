"""Documents of a sequence with their middle last: a function of seed, epoch and sequence."""

import attrs
import numpy as np

from llmrecipe.recipe.objective import FillInTheMiddle

_STREAM = 0x66696D
"""Sets these draws apart from those of the sample order, which are of seed and epoch, too."""


@attrs.frozen(kw_only=True)
class Rearrangement:
    """What rearranges the documents of a run (Bavarian et al. 2022; `FillInTheMiddle` has the two orders)."""

    options: FillInTheMiddle
    """How many documents are rearranged, and into which order."""

    token_ids: tuple[int, ...]
    """The tokens before prefix, middle and suffix."""

    end_of_text_id: int
    """The token that ends each document."""

    seed: int
    """The seed of the run."""

    def of(self, tokens: np.ndarray, *, epoch: int, window: int) -> np.ndarray:
        """`tokens` with some of their documents rearranged, for this epoch; what is too much at the end is cut off.

        Args:
            tokens: a sequence, `[length]`.
            epoch: how often the corpus has been read before.
            window: the number of the sequence.

        Returns:
            `[length]`, of the same type.
        """
        generator = np.random.default_rng([self.seed, epoch, window, _STREAM])
        ends = np.flatnonzero(tokens == self.end_of_text_id)
        starts, stops = np.append(0, ends + 1), np.append(ends, len(tokens))
        chosen = (generator.random(len(starts)) < self.options.rate) & (starts < stops)
        starts, stops = starts[chosen], stops[chosen]
        suffix_first = generator.random(len(starts)) < self.options.suffix_first_share
        cuts = np.sort(generator.integers(starts, stops, size=(2, len(starts)), endpoint=True), axis=0)
        before_prefix, before_middle, before_suffix = np.array(self.token_ids, tokens.dtype)[:, None]
        parts: list[np.ndarray] = []
        done = 0
        places = zip(starts.tolist(), *cuts.tolist(), stops.tolist(), suffix_first.tolist(), strict=True)
        for start, first, second, stop, is_suffix_first in places:
            prefix, middle, suffix = tokens[start:first], tokens[first:second], tokens[second:stop]
            if is_suffix_first:
                order = (before_prefix, before_suffix, suffix, before_middle, prefix, middle)
            else:
                order = (before_prefix, prefix, before_suffix, suffix, before_middle, middle)
            parts += (tokens[done:start], *order)
            done = stop
        return np.concatenate([*parts, tokens[done:]])[: len(tokens)]
