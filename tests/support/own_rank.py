"""A run's only rank in this process, which saves it the seconds of a start."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmrecipe.engines.nanotron import launcher
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.runs import jobs


@contextmanager
def own_rank() -> Iterator[None]:
    """Within this block, runs of one rank are trained here."""
    bootstrap.load("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "run_ranks", _run)
        yield


def _run(name: str, module: str, arguments: list[str], **_: Any) -> None:
    from llmrecipe.engines.nanotron.build import join_single_process
    from llmrecipe.engines.nanotron.trainer import Trainer

    join_single_process()
    Trainer(jobs.read(Path(arguments[0]), Job)).run()
