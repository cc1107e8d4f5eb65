"""On which machines text is prepared and tokenized."""

import re
from typing import Any

import attrs

from llmrecipe.recipe.kinds import Place
from llmrecipe.recipe.schema import FieldError, define
from llmrecipe.recipe.validators import between, not_empty

__all__ = [
    "Local",
    "Ray",
    "Slurm",
]

_TIME_LIMIT = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")


_ADDRESS = re.compile(r"[^/\s]+:\d{1,5}")


def _time_limit(owner: object, attribute: attrs.Attribute, value: Any) -> None:
    if not _TIME_LIMIT.fullmatch(value):
        reason = f"must be a time limit of Slurm's, such as '8:00:00' or '2-12:00:00', got {value!r}"
        raise FieldError(owner, attribute.name, reason)


def _address(owner: object, attribute: attrs.Attribute, value: Any) -> None:
    if value is not None and not _ADDRESS.fullmatch(value):
        raise FieldError(owner, attribute.name, f"must be host:port of the cluster, such as 'head:6379', got {value!r}")


@define("local")
class Local(Place):
    """This machine."""


@define("slurm")
class Slurm(Place):
    """A Slurm cluster: each pass over the text is a job array, of which the machine's `workers` run at once.

    The stage is started where `sbatch` is, waits for the jobs, and cancels them if it ends. The nodes must see the
    project's folder and the Python environment under the same paths.
    """

    partition: str = attrs.field(validator=not_empty)
    """`--partition`: the queue."""

    time_limit: str = attrs.field(validator=_time_limit)
    """`--time` of a shard in one pass, `hours:minutes:seconds` or `days-hours:minutes:seconds`."""

    cpus_per_task: int = attrs.field(default=1, validator=between(1, 10_000))
    """`--cpus-per-task`: cores of a shard; the work needs one, a second brings its memory."""

    memory_per_cpu_gb: int = attrs.field(default=4, validator=between(1, 100_000))
    """`--mem-per-cpu`, in GB."""

    account: str | None = None
    """`--account`: whom the time is charged to; without it, the cluster's choice."""

    qos: str | None = None
    """`--qos`: the quality of service; without it, the cluster's choice."""


@define("ray")
class Ray(Place):
    """A Ray cluster; needs `pip install 'llmrecipe[ray]'`.

    Its nodes must see the project's folder and the Python environment under the same paths.
    """

    address: str | None = attrs.field(default=None, validator=_address)
    """`host:port` of the cluster; without it, `RAY_ADDRESS`, or one that runs here, or else one of the stage's own."""

    cpus_per_task: int = attrs.field(default=1, validator=between(1, 10_000))
    """Cores that are reserved for a shard; the work needs one."""

    memory_per_cpu_gb: int = attrs.field(default=2, validator=between(1, 100_000))
    """Memory that is reserved for each of them, in GB."""
