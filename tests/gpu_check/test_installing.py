"""The files by which llmrecipe is installed for CUDA, as far as that can be told without."""

import re
import shlex

from packaging.requirements import Requirement
from paths import ROOT

CUDA = (ROOT / "constraints-cuda.txt").read_text(encoding="utf-8").splitlines()


def pinned(lines: list[str]) -> dict[str, str]:
    """Versions by package."""
    found = [Requirement(line) for line in lines if re.match(r"[A-Za-z]", line)]
    return {each.name: str(each.specifier) for each in found}


def test_constraints_for_cuda_are_the_usual_ones_and_exact_versions_of_more():
    usual = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    more = pinned(CUDA)

    assert "--constraint constraints.txt" in CUDA
    assert usual["torch"] == "==2.13.0"
    assert not usual.keys() & more.keys()
    assert all(re.fullmatch(r"==[\d.]+", version) for version in more.values())
    # What torch 2.13.0 asks for by itself.
    assert (
        more.items()
        >= {
            "cuda-toolkit": "==13.0.3.0",
            "nvidia-cudnn-cu13": "==9.20.0.48",
            "nvidia-cusparselt-cu13": "==0.8.1",
            "nvidia-nccl-cu13": "==2.29.7",
            "nvidia-nvshmem-cu13": "==3.4.5",
            "triton": "==3.7.1",
        }.items()
    )


def test_the_container_is_made_of_files_that_are_there():
    lines = (ROOT / "docs/Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [name for line in lines if line.startswith("COPY ") for name in shlex.split(line)[1:-1]]

    assert {"constraints-cuda.txt", "constraints.txt", "pyproject.toml", "llmrecipe"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
