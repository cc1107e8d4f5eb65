"""What a machine is asked for and can't do is refused before anything runs."""

from contextlib import nullcontext

import pytest
import torch

from llmrecipe import Machine
from llmrecipe.engines.device import check_precision, choose_kernels, set_up
from llmrecipe.errors import StageError


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(StageError, match=r"machine\.device: 'cuda' was asked for and PyTorch sees no GPU; use 'cpu'"):
        set_up(Machine(device="cuda"))
    assert set_up(Machine()).type == "cpu"


def test_a_gpu_without_bfloat16_is_refused_and_told_what_would_work(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")

    with pytest.raises(
        StageError, match=r"'bfloat16' was asked for, and Tesla T4 can't .* training.precision = 'float32'"
    ):
        check_precision("bfloat16", torch.device("cuda"))
    check_precision("float32", torch.device("cuda"))
    check_precision("bfloat16", torch.device("cpu"))


def test_float8_is_refused_on_an_older_gpu_and_without_its_package(monkeypatch):
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for capability, refuses in (((8, 0), True), ((8, 9), False), ((9, 0), False), ((12, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        with pytest.raises(StageError, match=r"NVIDIA A100 can't .* 'bfloat16'") if refuses else nullcontext():
            check_precision("float8", gpu)
    check_precision("float8", torch.device("cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(StageError, match=r"`pip install 'llmrecipe\[float8\]'`"):
        check_precision("float8", torch.device("cpu"))


@pytest.fixture
def kernels():
    """What is chosen in a test is taken back."""
    before = torch.backends.cuda.cudnn_sdp_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cuda.enable_cudnn_sdp(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]


@pytest.mark.usefixtures("kernels")
def test_a_deterministic_machine_refuses_kernels_that_are_not():
    choose_kernels(Machine())

    assert torch.are_deterministic_algorithms_enabled()
    # With warnings alone attention's gradient stays as it comes.
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.usefixtures("kernels")
def test_another_machine_may_use_any_kernel():
    choose_kernels(Machine(deterministic=False))

    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()
