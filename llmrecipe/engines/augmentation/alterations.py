"""Texts made from others by rules and chance."""

import random
import re

from llmrecipe.recipe.augment import ShuffleSpans, TokenNoise

SENTENCE = re.compile(r"(\s*)(\S.*?(?:[.!?…][\"'”’]*(?=\s)|[。！？]|\Z))", re.DOTALL)
"""White space, and a sentence up to its mark."""

PARAGRAPH = re.compile(r"(\s*)(\S.*?(?=\n\s*\n|\Z))", re.DOTALL)
"""White space, and what is between blank lines."""

LINE = re.compile(r"(\n*)([^\n]+)")
"""Line breaks, and a line with its indentation."""

_SPANS = {"sentence": SENTENCE, "line": LINE, "paragraph": PARAGRAPH}

_WORD = re.compile(r"\S+")


def shuffle(text: str, wanted: ShuffleSpans, dice: random.Random) -> str:
    """The spans in another order, with what is between them in its place."""
    inner = text.strip()
    start = text.index(inner)
    gaps, spans = zip(*_SPANS[wanted.span].findall(inner), strict=True)
    shuffled = "".join(gap + span for gap, span in zip(gaps, dice.sample(spans, len(spans)), strict=True))
    return text[:start] + shuffled + text[start + len(inner) :]


def add_noise(text: str, wanted: TokenNoise, dice: random.Random) -> str:
    """The words swapped, then some left out or followed by another one."""
    words, gaps = _WORD.findall(text), _WORD.split(text)
    for index in range(len(words)):
        if dice.random() < wanted.swap:
            other = dice.randrange(len(words))
            words[index], words[other] = words[other], words[index]
    altered = [gaps[0]]
    for word, gap in zip(words, gaps[1:], strict=True):
        kept = [] if dice.random() < wanted.delete else [word]
        if dice.random() < wanted.insert:
            kept.append(dice.choice(words))
        # A word that goes takes the white space after it along, unless that ends a line.
        altered.append(" ".join(kept) + (gap if kept or "\n" in gap else ""))
    return "".join(altered)
