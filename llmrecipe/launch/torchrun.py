"""Ranks on this machine, through torch's elastic launcher."""

import dataclasses
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.numa.binding import AffinityMode, NumaOptions

from llmrecipe.errors import StageError

_PATIENCE = 5
"""Seconds that ranks have to end by themselves."""


def run_ranks(
    name: str,
    module: str,
    arguments: Sequence[str],
    *,
    ranks: int,
    threads_per_rank: int,
    device: str,
    environment: Mapping[str, str],
) -> None:
    """Run `python -m module arguments…` as `ranks` processes that find each other, and wait for all.

    On GPUs (`device` is `cuda`) each is bound to the processors next to its own. `environment` is added to theirs.

    Raises:
        StageError: a rank failed or was killed, or this process was told to stop; all ranks are ended first.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    os.environ |= {"OMP_NUM_THREADS": str(threads_per_rank), **environment}
    # torch keeps a record of every event, and repeats a failed rank's traceback, which the rank has printed itself.
    for logger in list(logging.root.manager.loggerDict):
        if logger.startswith(("torch.distributed.elastic", "torchelastic")):
            logging.getLogger(logger).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
        numa_options=_BESIDE_THEIR_GPU if device == "cuda" else None,
    )
    # torch 2.11 has no such field, and waits for half a minute.
    if any(field.name == "shutdown_timeout" for field in dataclasses.fields(config)):
        config.shutdown_timeout = _PATIENCE
    try:
        # -P: the working folder, the user's project, is no place to import libraries from.
        program = ("-u", "-P", "-m", "llmrecipe.launch.child", str(os.getpid()), module)
        elastic_launch(config, sys.executable)(*program, *arguments)
    except SignalException as stopped:
        if stopped.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise StageError(f"{name}: stopped by {stopped.sigval.name}; `dvc repro` continues") from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == -signal.SIGINT:
            raise KeyboardInterrupt from None
        raise StageError(_explain(name, rank, failure)) from None


_BESIDE_THEIR_GPU = NumaOptions(affinity_mode=AffinityMode.NODE, should_fall_back_if_binding_fails=True)


def _explain(name: str, rank: int, failure: ProcessFailure) -> str:
    reason = _reason(failure.message)
    if reason.startswith("StageError: "):
        return reason.removeprefix("StageError: ")
    if failure.exitcode < 0:
        what = f"was killed by {failure.signal_name()}"
        if failure.signal_name() == "SIGKILL":
            what += " (out of memory, if nobody did it: a smaller parallelism.micro_batch_size needs less)"
    else:
        what = f"failed: {reason}"
    return f"{name}: rank {rank} {what}; `dvc repro` continues from the last checkpoint"


def _reason(message: Any) -> str:
    text: str = message["message"] if isinstance(message, dict) else message
    return text.strip().splitlines()[0]
