"""The parts of the check, each run where it can spoil no other: in a process and a folder of its own, for so long."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import attrs

from llmrecipe import artifacts
from llmrecipe.foreign import foreign
from llmrecipe.gpu_check.outcome import Finding

_LAST_LINES = 6
"""Of an error: the end of a traceback."""


@attrs.frozen
class Part:
    """A question."""

    name: str
    """Its module in `parts/`."""

    title: str
    """What it asks."""

    seconds: int
    """After so many it is ended: several times what it takes on an H100."""


PARTS = (
    Part("backends", "libraries and kernels", 240),
    Part("parity", "the same losses as on the CPU", 480),
    Part("exactness", "the same bits again, and after a kill", 600),
    Part("memory", "as much memory as the formula says", 480),
    Part("speed", "speed of a large model, and where its time goes", 600),
    Part("speedups", "what each choice makes of that speed", 600),
    Part("compression", "a quantized model that writes", 480),
    Part("layouts", "the same losses on two ranks", 480),
)


def carry_out(part: Part, folder: Path, device: str) -> Finding:
    """Run a part below `folder`, where its log `NAME.log` stays.

    Args:
        part: which.
        folder: what it leaves goes away again, but for the log.
        device: `cuda`, or `cpu` for a dry run.
    """
    place, log = folder / "work", folder / f"{part.name}.log"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    file = place / "outcome.json"
    started = time.monotonic()
    # `-P`, since the folder is no place to import from; as a child, since it may not outlive this process.
    command = [sys.executable, "-P", "-m", "llmrecipe.launch.child", str(os.getpid())]
    command += ["llmrecipe.gpu_check.one_part", part.name, str(place), str(file), device]
    try:
        with log.open("w", encoding="utf-8") as output:
            # What it starts ends with it.
            subprocess.run(
                command, cwd=place, stdout=output, stderr=subprocess.STDOUT, check=True, timeout=part.seconds
            )
        found = artifacts.read_json(file)
        reasons = [*found["failures"], *filter(None, [found["skipped"]])]
        status, tables = found["status"], found["tables"]
    except subprocess.TimeoutExpired:
        status, reasons, tables = "timed out", [f"it wasn't done in {part.seconds} s; {log} has what it said"], {}
    except subprocess.CalledProcessError:
        said = foreign(log.read_text(encoding="utf-8", errors="replace")).splitlines()
        status, reasons, tables = "broken", [line for line in said if line.strip()][-_LAST_LINES:], {}
    finally:
        shutil.rmtree(place, ignore_errors=True)
    seconds = round(time.monotonic() - started, 1)
    return Finding(name=part.name, title=part.title, status=status, seconds=seconds, reasons=reasons, tables=tables)
