"""What a machine is asked for and can't do is refused before anything runs."""

import pytest
import torch

from llmrecipe import Machine
from llmrecipe.engines.device import check_precision, set_up
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
