"""How long a command takes to answer, in a measure that holds on any machine."""

import resource
import subprocess
import sys

# What no answer can do without. A quiet core takes 0.1 s for it.
FLOOR = "import cattrs, rich.console, yaml, json, argparse"


def times_the_floor(command: list[str], attempts: int = 4) -> float:
    """The CPU time of a command over that of a Python that imports three libraries, each the least of some runs.

    Both are measured in turn, since the cores of a shared machine are twice as slow at one time as at another.
    """
    floor, answer = [], []
    for _ in range(attempts):
        floor.append(_cpu_seconds([sys.executable, "-c", FLOOR]))
        answer.append(_cpu_seconds(command))
    return min(answer) / min(floor)


def _cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
