"""Small corpora, and stages run on them the way the runner does."""

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from backports import zstd

from llmrecipe.recipe.machine import Machine
from llmrecipe.sections import Section
from llmrecipe.stages.runner import Inputs, StageContext


def run(
    kind: str, section: Section, folder: Path, inputs: Mapping[str, Path] | None = None, machine: Machine | None = None
) -> StageContext:
    """Run a stage with its output in `folder / kind`."""
    output = folder / kind
    output.mkdir(parents=True)
    context = StageContext(
        name=f"corpus-{kind}",
        section=section,
        inputs=Inputs(inputs or {}),
        output=output,
        machine=machine or Machine(workers=1),
        scratch=folder / "scratch",
    )
    importlib.import_module(f"llmrecipe.stages.{kind}").run(context)
    return context


def write_jsonl(path: Path, texts: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def read_documents(documents: Path, split: str) -> list[dict]:
    """A split's documents, read with nothing of the project."""
    return [
        json.loads(line)
        for path in sorted((documents / split).iterdir())
        for line in zstd.decompress(path.read_bytes()).splitlines()
    ]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
