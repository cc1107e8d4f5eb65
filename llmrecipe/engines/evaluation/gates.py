"""Whether a model passes a gate, by what was measured of it: a function for each class of `Gate`."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import attrs

from llmrecipe.errors import StageError, suggestion
from llmrecipe.recipe.gate import LEAST_DOCUMENTS, NEEDED, Recovery, Score, Size, Speed
from llmrecipe.recipe.kinds import Gate
from llmrecipe.recipe.measure import RECOVERIES, UNBOUNDED

Numbers = dict[str, Any]


@attrs.frozen(kw_only=True)
class Candidate:
    """A model that may be released."""

    name: str
    """Its name."""

    numbers: Numbers
    """What the comparison says of it."""

    is_reference: bool
    """Whether it is what the others are compared with."""

    times: Callable[[str], Numbers | None]
    """What was measured of the run of a measure on this machine, by the measure's name; None if it wasn't here."""

    def group(self, measure: str) -> Numbers:
        """The numbers of a measure, which are in a group of its name or, if that is free, the model's own."""
        group = self.numbers.get(measure)
        return group if isinstance(group, dict) else self.numbers


@attrs.frozen(kw_only=True)
class Verdict:
    """What a gate says of a model."""

    gate: str
    """The gate in words: `recovery of at least 98 %`."""

    found: str
    """What was measured: `97.1 % (96.4–97.8)`."""

    passes: bool
    """Whether that is enough."""

    rests_on: str | None = None
    """What a reader should know of it: that it is a time."""


@singledispatch
def judge(gate: Gate, candidate: Candidate) -> Verdict:
    """Whether a candidate passes.

    Raises:
        StageError: what the gate asks for wasn't measured, or on too few documents; or nothing judges such a gate.
    """
    name = type(gate).__name__
    raise StageError(f"nothing judges {name}; register a function with `gates.judge.register`")


@judge.register
def _recovery(gate: Recovery, candidate: Candidate) -> Verdict:
    what = "recovery" if gate.number is None else f"recovery of {gate.number}"
    asked = f"{what} by {gate.measure} of at least {100 * gate.at_least:g} %"
    if candidate.is_reference:
        return Verdict(gate=asked, found="100 %, since the others are compared with it", passes=gate.at_least <= 1)
    numbers = candidate.group(gate.measure)
    if gate.number is not None:
        numbers = numbers.get(RECOVERIES, {}).get(gate.number, {})
    if not numbers.keys() & {"recovery_percent", "recovery_documents"}:
        raise StageError(f"{candidate.name}: {gate.measure} gives no {what} of it, so gate.Recovery can't judge it")
    if UNBOUNDED in numbers and numbers.get("recovery_documents", 0) >= LEAST_DOCUMENTS:
        found = f"{gate.number} is 0 in all {numbers['recovery_documents']} documents, and less isn't possible"
        return Verdict(gate=asked, found=found, passes=True)
    if "recovery_low_percent" not in numbers:
        raise StageError(f"{candidate.name}: {_why_unsure(gate, numbers)}")
    low, high = numbers["recovery_low_percent"], numbers["recovery_high_percent"]
    found = (
        f"{numbers['recovery_percent']:.2f} % ({low:.2f} to {high:.2f} % of {numbers['recovery_documents']} documents)"
    )
    return Verdict(gate=asked, found=found, passes=low >= 100 * gate.at_least)


def _why_unsure(gate: Recovery, numbers: Numbers) -> str:
    """Why a recovery has no interval."""
    documents = numbers.get("recovery_documents", 0)
    if "recovery_by" in numbers:
        return f"{NEEDED}, and {gate.measure} has read {documents}; raise its max_tokens, or hold out more text"
    if "recovery_documents" not in numbers:
        return (
            f"gate.Recovery needs the same documents of both models, and {gate.measure} has scored more of one than of "
            "the other; have it score the same ones"
        )
    if documents < LEAST_DOCUMENTS:
        return (
            f"gate.Recovery needs at least {LEAST_DOCUMENTS} documents, the same of both models, and {gate.measure} "
            f"has scored {documents}; have it score more, or use gate.Score"
        )
    return (
        f"{gate.number} is 0 for so many documents of {gate.measure} that some draws have nothing else, and nothing "
        "divides by 0; have it score more, or use gate.Score"
    )


@judge.register
def _size(gate: Size, candidate: Candidate) -> Verdict:
    size = candidate.numbers["size_mb"]
    return Verdict(gate=f"at most {gate.at_most_mb:g} MB", found=f"{size:.2f} MB", passes=size <= gate.at_most_mb)


@judge.register
def _score(gate: Score, candidate: Candidate) -> Verdict:
    numbers = {key: value for key, value in candidate.group(gate.measure).items() if isinstance(value, int | float)}
    if gate.number not in numbers:
        raise StageError(
            f"{candidate.name}: {gate.measure} gives no number {gate.number!r}{suggestion(gate.number, list(numbers))}"
        )
    bounds = {"at least": gate.at_least, "at most": gate.at_most}
    asked = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    value = numbers[gate.number]
    passes = (gate.at_least is None or value >= gate.at_least) and (gate.at_most is None or value <= gate.at_most)
    return Verdict(gate=f"{gate.number} of {asked}", found=f"{value:.6g}", passes=passes)


@judge.register
def _speed(gate: Speed, candidate: Candidate) -> Verdict:
    times = candidate.times(gate.measure)
    if times is None or "tokens_per_second" not in times:
        raise StageError(
            f"{candidate.name}: gate.Speed needs a time of {gate.measure}, which didn't run on this machine, or left "
            f"something else here; run it, `dvc repro --force --single-item {candidate.name}-{gate.measure}`"
        )
    if times["processor"] != gate.processor:
        raise StageError(
            f"{candidate.name}: gate.Speed is about {gate.processor!r}, and {gate.measure} ran on "
            f"{times['processor']!r}; run it there, or change the gate"
        )
    speed = times["tokens_per_second"]
    return Verdict(
        gate=f"at least {gate.at_least:g} tokens/s on {gate.processor}",
        found=f"{speed:,.0f} tokens/s",
        passes=speed >= gate.at_least,
        rests_on=f"it was released because it reads {speed:,.0f} tokens/s on {gate.processor}, which another run "
        "measures otherwise",
    )
