"""The findings as one file, and as tables for a reader."""

import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmrecipe import artifacts
from llmrecipe.foreign import foreign
from llmrecipe.gpu_check.outcome import Finding, Row

REPORT = "gpu-check.json"

_GOOD = ("passed", "skipped")


def passes(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong in any of them."""
    return all(finding.status in _GOOD for finding in findings)


def write(findings: Sequence[Finding], folder: Path, device: str) -> Path:
    """Write what is known so far to `folder`, and return the file."""
    file = folder / REPORT
    packages = ("llmrecipe", "torch", "transformers", "nanotron", "llmcompressor")
    content = {
        "device": device,
        "machine": platform.platform(),
        "packages": {package: version(package) for package in packages},
        "parts": {finding.name: attrs.asdict(finding) for finding in findings},
        "passes": passes(findings),
        "python": platform.python_version(),
    }
    artifacts.write_json(file, content)
    return file


def show(findings: Sequence[Finding]) -> None:
    """Print all tables, and last of all the verdicts."""
    # A log has no width of its own.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    for finding in findings:
        for title, rows in finding.tables.items():
            if rows:
                console.print(Text(f"{finding.name}: {title}", "bold"), _table(rows), "", sep="\n")
    verdicts = [
        {"part": each.name, "asks for": each.title, "verdict": each.status, "seconds": each.seconds}
        for each in findings
    ]
    console.print(Text("verdicts", "bold"), _table(verdicts), sep="\n")
    for finding in findings:
        for reason in finding.reasons:
            console.print(Text(foreign(f"{finding.name}: {reason}")))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    # A row may lack what couldn't be measured.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        is_text = all(isinstance(row.get(name), str | None) for row in rows)
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in columns))
    return table


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        case _:
            return foreign(str(value))
