"""Ends processes at a chosen moment: on PYTHONPATH, Python imports this module before anything else.

`KILL_SWITCH` is a JSON object:

- `event`, `path`: the audit event (`open`, `os.mkdir`, `os.rename`, `shutil.rmtree`) and a pattern that its last path
  must match. Python raises the event before it does what the event says.
- `count`: which of these events, counted from 1.
- `rank`: the rank that watches, or null for the process that starts the ranks.
- `victims`: the ranks that get SIGKILL at that moment, or `all` for every rank and the process that starts them.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path


def _children(process: int) -> dict[str, int]:
    """The ranks that a process has started, and the process of each."""
    found = {}
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        ranks = [entry.removeprefix("RANK=") for entry in environment if entry.startswith("RANK=")]
        if ranks:
            found[ranks[0]] = int(child)
    return found


def _arm(event: str, path: str, count: int, rank: str | None, victims: list[str] | str) -> None:
    remaining = count
    pattern = re.compile(path)

    def watch(name: str, arguments: tuple) -> None:
        nonlocal remaining
        if name != event:
            return
        # A rename has a source and a destination, and every event has more arguments after its paths.
        paths = [argument for argument in arguments[:2] if isinstance(argument, str | os.PathLike)]
        subject = os.fspath(paths[1] if event == "os.rename" else paths[0]) if paths else ""
        if not isinstance(subject, str) or not pattern.search(subject):
            return
        remaining -= 1
        if remaining == 0:
            _kill()

    def _kill() -> None:
        launcher = os.getpid() if rank is None else os.getppid()
        ranks = _children(launcher)
        doomed = [launcher, *ranks.values()] if victims == "all" else [ranks[victim] for victim in victims]
        # This process last, or it couldn't end the others.
        for process in sorted(doomed, key=lambda process: process == os.getpid()):
            os.kill(process, signal.SIGKILL)

    sys.addaudithook(watch)


if "KILL_SWITCH" in os.environ:
    _switch = json.loads(os.environ["KILL_SWITCH"])
    if os.environ.get("RANK") == _switch["rank"]:
        _arm(**_switch)
