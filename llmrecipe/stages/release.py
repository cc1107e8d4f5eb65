"""The first of some models that passes all gates."""

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from llmrecipe import artifacts, cards, layout, times
from llmrecipe.cards import ModelCard
from llmrecipe.engines.evaluation import gates
from llmrecipe.engines.evaluation.gates import Candidate, Verdict
from llmrecipe.errors import StageError
from llmrecipe.recipe.evolve import evolve
from llmrecipe.sections import ReleaseSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)


def run(context: StageContext[ReleaseSection]) -> None:
    """Copy the first candidate that passes all gates to `model/`, with a card that says what it was made from.

    `metrics.json`: the `released` model, and by candidate what each gate asks for, what was `found`, and whether it
    `passes`.

    Raises:
        StageError: none passes; the message holds all that was found. Or what a gate asks for wasn't measured.
    """
    section, compared = context.section, artifacts.read_json(context.inputs["comparison"])
    verdicts = {
        name: [gates.judge(gate, _candidate(name, compared, context)) for gate in section.gates]
        for name in section.candidates
    }
    table = "\n".join(_line(name, verdict) for name, each in verdicts.items() for verdict in each)
    released = next((name for name, each in verdicts.items() if all(verdict.passes for verdict in each)), None)
    if released is None:
        raise StageError(f"no candidate passes all gates:\n{table}\nlower a gate, or add a candidate that keeps more")
    log.info("releases %s:\n%s", released, table)
    _copy(context.inputs[f"{released}.model"], verdicts[released], context)
    found = {name: [_row(verdict) for verdict in each] for name, each in verdicts.items()}
    artifacts.write_json(context.output / "metrics.json", {"released": released, "candidates": found})


def _candidate(name: str, compared: Mapping[str, Any], context: StageContext[ReleaseSection]) -> Candidate:
    return Candidate(
        name=name,
        numbers=compared[name],
        is_reference=name == context.section.reference,
        times=partial(_times, name, context.inputs),
    )


def _times(name: str, inputs: Mapping[str, Path], measure: str) -> dict[str, Any] | None:
    path = inputs[f"{name}.{measure}"]
    return times.read(layout.stage_of(path.as_posix()), path.parent)


def _copy(source: Path, verdicts: list[Verdict], context: StageContext[ReleaseSection]) -> None:
    directory = context.output / "model"
    artifacts.open_artifact(source, "model")
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns(artifacts.MANIFEST))
    card = cards.read(source, ModelCard)
    notes = tuple(verdict.rests_on for verdict in verdicts if verdict.rests_on is not None)
    parents = {"model": artifacts.file_digest(source / artifacts.MANIFEST)}
    cards.write(directory, evolve(card, made_by="release", parents=parents, notes=(*card.notes, *notes)))
    artifacts.seal(directory, "model")


def _line(name: str, verdict: Verdict) -> str:
    return f"  {name}: {verdict.gate}: {'passes' if verdict.passes else 'fails'} with {verdict.found}"


def _row(verdict: Verdict) -> dict[str, Any]:
    row = attrs.asdict(verdict)
    del row["rests_on"]
    return row
