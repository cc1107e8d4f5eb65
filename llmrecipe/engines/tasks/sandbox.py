"""Programs that a model wrote, run where they can do no harm."""

import json
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import attrs

from llmrecipe.engines.tasks import jail
from llmrecipe.errors import StageError

_PATIENCE = 4
"""Seconds that pass by for each that a program may compute, so that none fails since the machine has much to do."""

_LONGEST = 300
"""Characters of a reason."""

_NO_MEMORY = ("MemoryError", "OSError: [Errno 12]")

Verdict = Literal["passed", "failed", "timed out", "out of memory"]


@attrs.frozen(kw_only=True)
class Limits:
    """What a program may use."""

    seconds: int = 10
    """Processor time of each process; four times as many may pass by."""

    memory: int = 1 << 30
    """Bytes of each process, Python's own and its libraries' among them."""

    processes: int = 8
    """Processes and threads at a time."""

    written: int = 16 << 20
    """Bytes of all files together, and again of what it prints."""


_DEFAULT = Limits()


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a program."""

    verdict: Verdict

    reason: str
    """What its traceback ends with, or how it ended; empty if it passed."""

    output: str
    """The first 4,096 bytes of what it printed."""


def run(program: str, limits: Limits = _DEFAULT) -> Outcome:
    """Run a Python program, which has its tests at its end: it passes if its last line was executed.

    It runs in a fresh Python of this version, without any library but the standard one, as a user who owns nothing, in
    an empty folder in memory, with an empty environment. There is no network, not even of this machine; of files it
    sees, and can't change, Python's and those in `/usr`; other processes it can't see. When it ends, or its time is
    over, all that it has started ends.

    What isn't promised. Memory is counted by process: all together may have `limits.processes` times as much. Locked in
    by the kernel, it can get out by an error in the kernel. And its tests run in its own process: exits, threads,
    forks and a text that says so pass none, since after the last line a random word has to be written, which is read
    only then; but a program that was written to deceive can look for that word, or for the tests themselves, say by
    answers that are equal to anything.

    Raises:
        StageError: the kernel doesn't let it be locked in.
    """
    token = secrets.token_hex(16)
    found = _locked_in(
        {"program": program, "token": token, "patience": _PATIENCE * limits.seconds, **attrs.asdict(limits)}
    )
    if "forbidden" in found:
        raise StageError(
            "programs that a model wrote can't be run here: the kernel refuses to lock them in "
            f"({found['forbidden']}), and otherwise they could change files and reach the network, so that none is "
            "run; allow user namespaces (sysctl user.max_user_namespaces above 0, and where there are these, "
            "kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0; of a container "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined), or measure on a machine with Linux "
            "5.12 or later that does"
        )
    verdict, reason = _judged(found["ended"], found["result"], token, limits)
    return Outcome(verdict=verdict, reason=reason[:_LONGEST], output=found["output"])


def refuse_forbidden() -> None:
    """Make sure that programs can be run, before a model writes any.

    Raises:
        StageError: they can't.
    """
    outcome = run("pass")
    if outcome.verdict != "passed":
        raise StageError(
            f"programs that a model wrote can't be run here: Python itself doesn't where they are locked in "
            f"({outcome.reason}; {outcome.output.strip()}); it has to be in {sys.base_prefix} with all that it needs, "
            "or in /usr"
        )


def _locked_in(request: dict[str, Any]) -> dict[str, Any]:
    """What `jail` says of a program."""
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run(
        [python, "-I", "-S", jail.__file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=Path("/"),
        env={},
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        raise StageError(f"what locks in programs ended with {done.returncode}:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _judged(ended: int | None, result: str, token: str, limits: Limits) -> tuple[Verdict, str]:
    if ended is None:
        return "timed out", f"{_PATIENCE * limits.seconds} seconds have passed by"
    if ended == -signal.SIGXCPU:
        return "timed out", f"has computed for {limits.seconds} seconds"
    if ended < 0:
        return "failed", f"was killed by {signal.Signals(-ended).name}"
    if result == token:
        return "passed", ""
    if result.startswith(_NO_MEMORY):
        return "out of memory", result
    return "failed", result or f"ended with status {ended} before its tests were over"
