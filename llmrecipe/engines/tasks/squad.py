"""Short answers, right or partly right, as SQuAD has them (Rajpurkar et al. 2016 and 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from llmrecipe.engines.tasks.score import Score, mean

_ARTICLES = re.compile(r"\b(a|an|the)\b")

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """A text in lower case, without ASCII punctuation and English articles, with one space between words."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(said: str, gold: Sequence[str]) -> float:
    """1 if an answer is one of those in `gold`, normalized.

    A question without any has no answer: 1 if nothing was said.
    """
    return float(normalized(said) in _answers(gold))


def f1(said: str, gold: Sequence[str]) -> float:
    """The F1 of the words that an answer shares with the nearest of those in `gold`, normalized.

    A question without any has no answer: 1 if nothing was said.
    """
    return max(_shared(normalized(said).split(), own.split()) for own in _answers(gold))


def scores(said: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, Score]:
    """`exact_match` and `f1`: means over questions, from 0 to 1.

    Args:
        said: an answer to each question, empty if there is none.
        gold: the right ones of each, none if it has no answer.
    """
    pairs = list(zip(said, gold, strict=True))
    return {"exact_match": mean([exact_match(*pair) for pair in pairs]), "f1": mean([f1(*pair) for pair in pairs])}


def _answers(gold: Sequence[str]) -> list[str]:
    """The right ones, normalized; an empty one if there are none."""
    return [answer for answer in map(normalized, gold) if answer] or [""]


def _shared(said: list[str], own: list[str]) -> float:
    if not said or not own:
        return float(said == own)
    return 2 * (Counter(said) & Counter(own)).total() / (len(said) + len(own))
