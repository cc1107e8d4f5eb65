"""What differs between recipes, or between states of one, and what came of it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmrecipe.cli.revisions import Version
from llmrecipe.cli.table import table
from llmrecipe.foreign import foreign
from llmrecipe.wiring import TIES

_ABSENT = "–"
_LONGEST = 40


def compared(versions: Sequence[Version]) -> str:
    """Two tables, of what differs and of what came of it; what was released; and what is missing for them."""
    differing = list(_differing(versions))
    head = ["what differs", *(each.title for each in versions)]
    rows = [(f"{each.title}: {model}", numbers, "") for each in versions for model, numbers in _results(each)]
    sections = [
        _aligned([head, *differing]) if differing else f"nothing differs between {_listed(versions)}",
        table("what came of it", rows) if rows else "",
        "\n".join(line for each in versions for line in _released(each)),
        "\n".join(note for each in versions for note in _missing(each)),
    ]
    return foreign("\n\n".join(filter(None, sections)))


def _differing(versions: Sequence[Version]) -> Iterator[list[str]]:
    """Rows of a field, by its path, and its value in each."""
    stages = _stages(versions)
    for key in dict.fromkeys(key for each in stages for key in each):
        names = [each.get(key) for each in stages]
        if len(set(names)) > 1:
            yield [key, *(name or _ABSENT for name in names)]
        if None in names:
            continue
        fields = [_run_with(version, str(name), key) for version, name in zip(versions, names, strict=True)]
        for path in dict.fromkeys(path for each in fields for path in each or ()):
            values = ["not run" if each is None else each.get(path, _ABSENT) for each in fields]
            if len(set(values)) > 1:
                yield [path, *values]


def _run_with(version: Version, stage: str, key: str) -> dict[str, str] | None:
    """What a stage has run with, by path: parameters, and files that no stage makes; None if it hasn't."""
    section = version.section(stage)
    if section is None:
        return None
    files = {f"{key}: {path}": f"content {md5[:8]}" for path, md5 in version.files(stage).items()}
    return dict(_fields(key, section)) | files


def _stages(versions: Sequence[Version]) -> list[dict[str, str]]:
    """The stages of each, by what they are compared under: their name, or for values that not all have their kind."""
    shared = set.intersection(*(set(each.owners.values()) for each in versions))
    found = []
    for version in versions:
        count: Counter[str] = Counter()
        keys = {}
        for stage, owner in version.owners.items():
            key = stage
            if owner not in shared:
                kind = stage.removeprefix(f"{owner}-")
                count[kind] += 1
                key = kind if count[kind] == 1 else f"{kind} {count[kind]}"
            keys[key] = stage
        found.append(keys)
    return found


def _fields(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """What a section says, by path."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            if key not in TIES:
                yield from _fields(f"{path}.{key}", part)
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        for index, part in enumerate(value):
            yield from _fields(f"{path}[{index}]", part)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield path, text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _results(version: Version) -> Iterator[tuple[str, dict[str, Any]]]:
    """The numbers of each model."""
    for model, numbers in (version.data(version.report, "metrics.json") or {}).items():
        training = version.data(f"{model}-train", "metrics.json") or {}
        measured = version.times(f"{model}-train") or {}
        known = {
            "training_loss": training.get("loss"),
            "validation_loss": training.get("validation_loss"),
            "training_seconds": measured.get("seconds"),
            "tokens_per_second": measured.get("tokens_per_second"),
        }
        yield model, numbers | {key: value for key, value in known.items() if value is not None}


def _released(version: Version) -> Iterator[str]:
    """Which model was released, and what it has shown."""
    found = version.data(version.release, "metrics.json")
    if found is not None:
        yield f"{version.title}: released {found['released']}"
        for verdict in found["candidates"][found["released"]]:
            yield f"  {verdict['gate']}: {verdict['found']}"


def _missing(version: Version) -> Iterator[str]:
    if version.data(version.report, "metrics.json") is None:
        if version.report in version.locked:
            yield f"{version.title}: its numbers are neither in DVC's cache nor here; `dvc fetch` gets what was pushed"
        else:
            yield f"{version.title}: it was never run to its end"
    elif version.release in version.owners and version.data(version.release, "metrics.json") is None:
        known = version.release in version.locked
        why = "what it released is neither in DVC's cache nor here" if known else "none of its models was released"
        yield f"{version.title}: {why}"
    for model in (stage for stage in version.owners if stage.endswith("-train") and stage in version.locked):
        if version.times(model) is None:
            yield f"{version.title}: {model} wasn't run on this machine, so its time isn't known"
    changed = [
        name
        for name, planned in version.planned.items()
        if (section := version.section(name)) is not None and dict(_fields("", section)) != dict(_fields("", planned))
    ]
    if changed:
        again = f"`dvc repro` would run again: {', '.join(changed)}"
        yield f"{version.title}: planned otherwise since it was run, and {again}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _listed(versions: Sequence[Version]) -> str:
    return " and ".join(each.title for each in versions)
