"""Linear layers by oneDNN and by MKL compute what torch's own do, and which it is depends on the processor."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch

from llmrecipe.engines.models.table import Weights
from llmrecipe.engines.nanotron import launcher, weights
from llmrecipe.engines.nanotron.launcher import FinishedRun
from llmrecipe.engines.nanotron.port import linear as port
from llmrecipe.engines.nanotron.port.linear import linear


@pytest.fixture(params=["oneDNN", "MKL"])
def library(request):
    """The library that multiplies meanwhile."""
    port.use(request.param)
    yield request.param
    port.use(port.fastest())


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 7), (2, 3, 4, 7)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_linear_layer_and_its_gradients_are_torchs(library, shape, has_bias):
    torch.manual_seed(0)
    inputs = [torch.randn(shape), torch.randn(11, 7), *([torch.randn(11)] if has_bias else [])]
    ours, theirs = ([tensor.clone().requires_grad_() for tensor in inputs] for _ in range(2))
    # Not contiguous, as the gradient of a transposed output is.
    gradient = torch.randn(*shape[:-2], 11, shape[-2]).transpose(-1, -2)

    found, expected = linear(*ours), torch.nn.functional.linear(*theirs)
    found.backward(gradient)
    expected.backward(gradient)

    torch.testing.assert_close(found, expected)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def products(x: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    """The output and both gradients."""
    x, weight = (tensor.clone().requires_grad_() for tensor in (x, weight))
    found = linear(x, weight)
    found.backward(gradient)
    return [found.detach(), x.grad, weight.grad]


@pytest.mark.parametrize(("rows", "inner", "outer"), [(512, 128, 384), (256, 768, 96), (130, 33, 71)])
def test_the_two_libraries_differ_by_rounding_and_each_gives_the_same_bits_every_time(rows, inner, outer):
    torch.manual_seed(0)
    given = torch.randn(rows, inner), torch.randn(outer, inner), torch.randn(rows, outer)
    x, weight, gradient = (tensor.double() for tensor in given)
    exact = [x @ weight.t(), gradient @ weight, gradient.t() @ x]
    for library in ("oneDNN", "MKL"):
        port.use(library)
        found, again = products(*given), products(*given)
        assert all(map(torch.equal, found, again))
        for product, right in zip(found, exact, strict=True):
            assert (product - right).abs().max() < 1e-5 * right.abs().max()
    port.use(port.fastest())


def test_what_needs_no_gradient_gets_none_and_other_formats_are_left_to_torch(library):
    x, weight = torch.randn(5, 7), torch.randn(11, 7, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(11, 7))

    half = linear(x.bfloat16(), weight.bfloat16())
    assert torch.equal(half, torch.nn.functional.linear(x.bfloat16(), weight.bfloat16()))


def test_one_library_multiplies_and_not_the_other(library):
    x, weight = torch.randn(5, 7), torch.randn(11, 7, requires_grad=True)
    with torch.profiler.profile() as profile:
        linear(x, weight).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert ("mkldnn::_linear_pointwise" in names, "aten::mm" in names or "aten::addmm" in names) == (
        (True, False) if library == "oneDNN" else (False, True)
    )


HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
IS_INTEL = "GenuineIntel" in Path("/proc/cpuinfo").read_text()


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        pytest.param(
            {}, "MKL" if IS_INTEL else "oneDNN", marks=pytest.mark.skipif(not HAS_AVX512, reason="no AVX-512")
        ),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, "MKL"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "MKL"),
        ({"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, "MKL"),
    ],
)
def test_the_library_is_chosen_by_what_the_processor_can_or_is_said_to(limits, expected):
    code = "from llmrecipe.engines.nanotron.port.linear import fastest; print(fastest())"
    free = {
        name: value for name, value in os.environ.items() if name not in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=free | limits, check=True, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.strip() == expected


@pytest.mark.parametrize(("vendor", "expected"), [("GenuineIntel", "MKL"), ("AuthenticAMD", "oneDNN")])
def test_mkl_multiplies_on_intels_own_processors_with_avx512_too(monkeypatch, tmp_path, vendor, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id : {vendor}\n")
    monkeypatch.setattr(port, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)

    assert port.fastest() == expected


@pytest.mark.slow
def test_a_run_multiplies_by_what_was_chosen_for_it_and_says_so(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    tokens = tiny_training.write_tokens(tmp_path / "tokens", train=6_000, heldout=2_000)
    what = tiny_training.section(training=tiny_training.SHORT)

    def trained(library: port.Library, scratch: str) -> tuple[FinishedRun, Weights]:
        monkeypatch.setattr(launcher, "fastest", lambda: library)
        run = tiny_training.trained(what, tokens, tmp_path / scratch, checkpoint_interval=2, keep_checkpoints=2)
        assert run.measurements["math_library"] == library
        return run, weights.read_whole(run.checkpoint)

    (one, of_one), (again, of_again), (other, of_other) = (
        trained(library, scratch) for library, scratch in (("MKL", "a"), ("MKL", "b"), ("oneDNN", "c"))
    )
    assert again.metrics == one.metrics
    assert all(torch.equal(of_again[name], tensor) for name, tensor in of_one.items())
    assert not all(torch.equal(of_other[name], tensor) for name, tensor in of_one.items())
    losses = (tiny_training.column(run, "loss") for run in (one, other))
    assert all(abs(left - right) < 1e-5 * left for left, right in zip(*losses, strict=True))

    assert "multiplied by" not in caplog.text
    shutil.rmtree(one.checkpoint)
    trained("oneDNN", "a")
    assert "resumes after step 2 of 4" in caplog.text
    assert "the steps so far were multiplied by MKL, and those to come by oneDNN" in caplog.text
