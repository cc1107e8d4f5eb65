"""How much of a model's quality another one has, and how sure that is."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from llmrecipe import artifacts
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation.bootstrap import DocumentLosses, PairedCorpus, ratio, spread
from llmrecipe.recipe.gate import LEAST_DOCUMENTS, LEAST_OF_CORPUS
from llmrecipe.recipe.measure import RECOVERIES, UNBOUNDED

Numbers = dict[str, Any]
"""Numbers by name; groups of them are dictionaries again."""

Unit = Literal["token", "byte"]

Pairs = Mapping[str, Sequence[tuple[Numbers, Numbers]]]
"""By corpus, rows of documents: what the reference's loss is on each, and the model's."""

_PSEUDO = "pseudo_perplexity"

_PERPLEXITIES = ("perplexity", "masked_perplexity", _PSEUDO)

_SIZES: dict[Unit, str] = {"token": "tokens", "byte": "bytes"}
"""What a document's loss is divided by, in its row."""

_LARGEST_RATIO = 2.0**40
"""Of a perplexity to that of a better model, where both have learned something."""


@attrs.frozen(kw_only=True)
class Measured:
    """A measurement of a model, with what is needed to compare it."""

    card: ModelCard
    """What the model is."""

    numbers: Numbers
    """What the measure gave."""

    documents: Path | None = None
    """Its losses by document, if it measured any."""

    scores: Path | None = None
    """Its scores by document, if it gave any."""


def recovery(reference: Measured, model: Measured) -> Numbers:
    """How much of the reference's quality a model has by a measure, if the two can be compared.

    This is this project's own definition: the reference's perplexity over the model's, in percent. 100 means that
    nothing was lost; since less perplexity is better, the ratio is the inverse of the usual one of accuracies. Between
    models with one tokenizer the perplexity is that of a token (`recovery_by` is `token`). Tokens of two tokenizers
    cover more or less text, so between them it is that of a byte: exp of the difference of the nats per byte
    (`byte`). Perplexities of masked tokens compare only where the same ones were masked, so between equal objectives.

    Where both have read `recovery_documents` documents, and these are enough, `recovery_low_percent` and
    `recovery_high_percent` are the ends of its 95 % interval, as `bootstrap.spread` says. In a mixture `corpora` holds
    the same of each corpus.

    `recoveries` holds it of other numbers, by their names: of a pseudo-perplexity in the same way; of a score, the
    model's mean over documents divided by the reference's, or the inverse where `lower` is better. A model that has
    none of what is to be low, and a reference that has some, have no ratio, but `recovery_is_unbounded`.
    """
    if reference.scores is not None and model.scores is not None:
        of_scores = _of_scores(artifacts.read_json(reference.scores), artifacts.read_json(model.scores))
        return {RECOVERIES: of_scores} if of_scores else {}
    unit = _unit(reference, model)
    if unit is None:
        return {}
    pairs = _pairs(reference, model)
    shares = {name: numbers["share"] for name, numbers in model.numbers.get("corpora", {}).items()} or {"": 1.0}
    found = _numbers(reference.numbers, model.numbers, unit, pairs, shares)
    if found and "" not in shares:
        found["corpora"] = {
            name: _numbers(
                reference.numbers["corpora"][name],
                model.numbers["corpora"][name],
                unit,
                {name: pairs.get(name, [])},
                {name: 1.0},
            )
            for name in shares
        }
    return found


def _unit(reference: Measured, model: Measured) -> Unit | None:
    """What the perplexities compare by; None if they don't."""
    one, other = reference.card, model.card
    if one.objective != other.objective and (one.objective.is_masked or other.objective.is_masked):
        return None
    return "token" if one.tokenizer == other.tokenizer else "byte"


def _numbers(before: Numbers, after: Numbers, unit: Unit, pairs: Pairs, shares: Mapping[str, float]) -> Numbers:
    left = _left(before, after, unit)
    # A reference that has diverged has no quality to keep.
    if left is None or left >= _LARGEST_RATIO:
        return {}
    found: Numbers = {"recovery_percent": 100 * left, "recovery_by": unit} | _interval(left, unit, pairs, shares)
    return {RECOVERIES: {_PSEUDO: found}} if _PSEUDO in after else found


def _interval(left: float, unit: Unit, pairs: Pairs, shares: Mapping[str, float]) -> Numbers:
    """How sure the share is that is left, by the documents that both have read."""
    count = sum(map(len, pairs.values()))
    if pairs.keys() != shares.keys() or count == 0:
        return {}
    found: Numbers = {"recovery_documents": count}
    if count >= LEAST_DOCUMENTS and min(map(len, pairs.values())) >= LEAST_OF_CORPUS:
        low, high = spread(
            {
                name: PairedCorpus(_losses(pairs[name], unit, 0), _losses(pairs[name], unit, 1), share)
                for name, share in shares.items()
            }
        )
        found["recovery_low_percent"] = 100 * left * math.exp(low)
        found["recovery_high_percent"] = 100 * left * math.exp(high)
    return found


def _of_scores(before: Mapping[str, Any], after: Mapping[str, Any]) -> Numbers:
    """By score, how much is left, and how sure that is by the documents."""
    found = {}
    for name in (each for each in after if each in before):
        if "over" in after[name]:
            # Of other examples it says nothing.
            if before[name]["of"] == after[name]["of"]:
                found[name] = _of_quotients(before[name], after[name])
            continue
        pair = [np.array(scores[name]["documents"]) for scores in (before, after)]
        above, below = pair if after[name]["better"] == "lower" else reversed(pair)
        are_enough = len(above) == len(below) >= LEAST_DOCUMENTS
        numbers: Numbers = {"recovery_documents": len(above)} if len(above) == len(below) else {}
        ends = None
        if below.any():
            numbers["recovery_percent"] = 100 * float(above.mean() / below.mean())
            ends = ratio(above, below) if are_enough else None
        elif after[name]["better"] == "lower":
            # Nothing divides by none, and better than that isn't possible.
            numbers |= {UNBOUNDED: True} if above.any() else {"recovery_percent": 100.0}
            ends = (1.0, 1.0) if are_enough and not above.any() else None
        if ends is not None:
            numbers["recovery_low_percent"], numbers["recovery_high_percent"] = (100 * end for end in ends)
        found[name] = numbers
    return found


def _of_quotients(before: Mapping[str, Any], after: Mapping[str, Any]) -> Numbers:
    """The same of a score that is a sum over documents divided by another, such as an F1."""
    is_lower = after["better"] == "lower"
    sums = [[np.array(scores[part]) for part in ("documents", "over")] for scores in (before, after)]
    (above, over), (below, under) = sums if is_lower else reversed(sums)
    numbers: Numbers = {"recovery_documents": len(above)}
    if not below.any():
        return numbers | ({UNBOUNDED: True} if above.any() else {"recovery_percent": 100.0} if is_lower else {})
    numbers["recovery_percent"] = 100 * float(above.sum() / over.sum() / (below.sum() / under.sum()))
    ends = ratio(above, over, below, under) if len(above) >= LEAST_DOCUMENTS else None
    if ends is not None:
        numbers["recovery_low_percent"], numbers["recovery_high_percent"] = (100 * end for end in ends)
    return numbers


def _left(before: Numbers, after: Numbers, unit: Unit) -> float | None:
    """The perplexity of the first over that of the second, of a token or a byte; None if it wasn't measured."""
    if unit == "token":
        return next((before[key] / after[key] for key in _PERPLEXITIES if key in before and key in after), None)
    if "bits_per_byte" in before and "bits_per_byte" in after:
        return float(2 ** min(before["bits_per_byte"] - after["bits_per_byte"], math.log2(_LARGEST_RATIO)))
    return None


def _pairs(reference: Measured, model: Measured) -> Pairs:
    """By corpus, the rows of the documents that both have read, from the start of the text; a corpus alone is ""."""
    if reference.documents is None or model.documents is None:
        return {}
    before, after = (_by_corpus(path) for path in (reference.documents, model.documents))
    return {
        # One that reads longer sequences may end a document earlier or later.
        name: [
            (one, other) for one, other in zip(before[name], rows, strict=False) if one["tokens"] and other["tokens"]
        ]
        for name, rows in after.items()
        if name in before
    }


def _by_corpus(path: Path) -> dict[str, list[Numbers]]:
    found: dict[str, list[Numbers]] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            found.setdefault(row.get("corpus", ""), []).append(row)
    return found


def _losses(pairs: Sequence[tuple[Numbers, Numbers]], unit: Unit, side: int) -> DocumentLosses:
    rows = [pair[side] for pair in pairs]
    return DocumentLosses(
        losses=np.array([row["loss"] for row in rows]),
        tokens=np.array([row["tokens"] for row in rows], dtype=float),
        sizes=np.array([row[_SIZES[unit]] for row in rows], dtype=float),
    )
