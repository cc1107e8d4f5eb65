"""What ranks are given as they start."""

import subprocess
import sys

import pytest
from tiny_training import NETWORK, section

from llmrecipe import Machine
from llmrecipe.engines.nanotron.environment import environment_of
from llmrecipe.engines.nanotron.job import Job


def job(**machine) -> Job:
    return Job(
        section=section(),
        network=NETWORK,
        machine=Machine(**machine),
        name="t-train",
        modules=(),
        tokens=(),
        shares=(),
        vocab_size=500,
        rows=500,
        end_of_text_id=0,
        start=None,
        tokenizer=None,
        state="state",
        events="events",
        resume=None,
        compiled=False,
        math_library=None,
    )


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("GLIBC_TUNABLES", "PYTORCH_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def test_a_cpu_gets_nothing_that_is_for_gpus():
    assert environment_of(job(device="cpu")).keys() == {"GLIBC_TUNABLES"}


def test_a_gpu_is_deterministic_unless_the_machine_says_otherwise():
    assert "CUBLAS_WORKSPACE_CONFIG" in environment_of(job(device="cuda"))
    assert "CUBLAS_WORKSPACE_CONFIG" not in environment_of(job(device="cuda", deterministic=False))


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:cudaMallocAsync")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")

    assert environment_of(job(device="cuda")).keys() == {"CUBLAS_WORKSPACE_CONFIG"}


def test_large_tensors_lie_in_large_pages():
    """Where Linux gives such pages to those who ask."""
    asks = "import torch; x = torch.ones(1 << 26); print(open('/proc/self/smaps').read().count(' hg'))"
    environment = environment_of(job(device="cpu"))

    done = subprocess.run([sys.executable, "-c", asks], env=environment, capture_output=True, text=True, check=True)

    assert int(done.stdout) > 0
