"""nanotron as it is loaded with and without a GPU."""

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.errors import StageError


def in_a_process(code: str) -> str:
    """What the code prints in a process of its own: nanotron is loaded once a process."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_without_a_gpu_nothing_in_nanotron_names_cuda_and_nothing_of_torch_is_replaced():
    output = in_a_process("""
        import inspect, sys, torch
        before = {name: getattr(torch.cuda, name) for name in dir(torch.cuda)}
        from llmrecipe.engines.nanotron.port import bootstrap
        bootstrap.load("cpu")
        from nanotron.models import build_model
        from nanotron.models.llama import LlamaModel
        print(inspect.signature(build_model).parameters["device"].default)
        print("cuda" in LlamaModel.__init__.__code__.co_consts)
        print(all(getattr(torch.cuda, name) is value for name, value in before.items()))
        print([name for name in sys.modules if name.startswith("flash_attn")])
        import transformers.models.llama.modeling_llama
    """)
    assert output.splitlines() == ["cpu", "False", "True", "[]"]


@pytest.mark.slow
def test_with_a_gpu_devices_process_groups_and_sends_are_nanotrons_own():
    output = in_a_process("""
        import inspect
        from llmrecipe.engines.nanotron.port import bootstrap
        bootstrap.load("cuda")
        import nanotron.distributed
        from nanotron.models import build_model
        from nanotron.models.llama import LlamaModel
        from nanotron.parallel.pipeline_parallel.p2p import P2P
        print(inspect.signature(build_model).parameters["device"].default)
        print("cuda" in LlamaModel.__init__.__code__.co_consts)
        print(P2P.send_tensors.__module__, nanotron.distributed.initialize_torch_distributed.__module__)
        print(nanotron.distributed.send.__module__)
    """)
    assert output.splitlines() == [
        "cuda",
        "True",
        "nanotron.parallel.pipeline_parallel.p2p nanotron.distributed",
        "torch.distributed.distributed_c10d",
    ]


def test_one_process_serves_one_device():
    bootstrap.load("cpu")
    bootstrap.load("cpu")
    with pytest.raises(StageError, match="loaded for cpu in this process; use another process for cuda"):
        bootstrap.load("cuda")


def test_another_version_than_the_mended_one_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.5")
    with pytest.raises(StageError, match=r"pip install nanotron==0\.4"):
        bootstrap.load("cpu")


@pytest.mark.slow
def test_a_changed_copy_of_the_mended_version_is_refused(tmp_path):
    published = Path(importlib.util.find_spec("nanotron").origin).parent
    shutil.copytree(published, tmp_path / "nanotron", ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "nanotron" / "trainer.py", "a") as file:
        file.write("# as good as new\n")
    output = in_a_process(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from llmrecipe.engines.nanotron.port import bootstrap
        from llmrecipe.errors import StageError
        try:
            bootstrap.load("cpu")
        except StageError as error:
            print(error)
    """)
    assert output.startswith(f"{tmp_path / 'nanotron'}: not nanotron 0.4 as it was published")
