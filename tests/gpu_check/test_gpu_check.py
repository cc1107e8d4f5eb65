"""`python -m llmrecipe.gpu_check`: what it finds, and what it says of parts that go wrong."""

import json
import math
import subprocess
import sys

import attrs
import pytest
import torch
from paths import ROOT

from llmrecipe import Llama
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.gpu_check import __main__ as command
from llmrecipe.gpu_check import footprint, kernels, peaks, work
from llmrecipe.gpu_check.outcome import Finding, Outcome
from llmrecipe.gpu_check.parts.speed import speed_of
from llmrecipe.gpu_check.report import REPORT, passes
from llmrecipe.gpu_check.running import PARTS, Part, carry_out
from llmrecipe.gpu_check.scale import DRY, ON_GPU, Case
from llmrecipe.gpu_check.training import Measured

LLAMA_405B = Llama(
    hidden_size=16_384,
    num_layers=126,
    num_attention_heads=128,
    num_key_value_heads=8,
    intermediate_size=53_248,
)


@pytest.mark.slow
def test_all_of_it_passes_in_small_on_a_cpu(tmp_path):
    asked = [sys.executable, "-m", "llmrecipe.gpu_check", "--dry-run", "--folder", str(tmp_path / "found")]

    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "found" / REPORT).read_text(encoding="utf-8")
    found = json.loads(text)
    assert text == json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert {name: part["status"] for name, part in found["parts"].items()} == {part.name: "passed" for part in PARTS}
    assert all(rows for part in found["parts"].values() for rows in part["tables"].values())
    assert all(f"{part.name}: " in done.stdout for part in PARTS)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == sorted(
        [REPORT, *(f"{part.name}.log" for part in PARTS)]
    )


def test_a_part_that_ends_by_an_error_is_told_by_its_last_lines(tmp_path):
    found = carry_out(Part("nowhere", "nothing", 60), tmp_path, "cpu")

    assert (found.status, found.tables) == ("broken", {})
    assert found.reasons[-1] == "ModuleNotFoundError: No module named 'llmrecipe.gpu_check.parts.nowhere'"
    assert [path.name for path in tmp_path.iterdir()] == ["nowhere.log"]


def test_a_part_that_takes_too_long_is_ended(tmp_path):
    found = carry_out(Part("backends", "libraries", 0), tmp_path, "cpu")

    assert (found.status, found.tables) == ("timed out", {})
    assert found.reasons == [f"it wasn't done in 0 s; {tmp_path / 'backends.log'} has what it said"]


def finding(part: Part, outcome: Outcome) -> Finding:
    return Finding(
        name=part.name,
        title=part.title,
        status=outcome.status,
        seconds=1.0,
        reasons=[*outcome.failures, *filter(None, [outcome.skipped])],
        tables=outcome.tables,
    )


def test_what_fails_hides_nothing_and_is_told_last(tmp_path, monkeypatch, capsys):
    outcomes = {"speed": Outcome(tables={"speeds": [{"tokens/s": 45_678.9}]}), "memory": Outcome(failures=["too much"])}
    written = []

    def carried_out(part, folder, device):
        file = folder / REPORT
        written.append(sorted(json.loads(file.read_text())["parts"]) if file.exists() else [])
        return finding(part, outcomes.get(part.name, Outcome(skipped="not now")))

    monkeypatch.setattr(command, "carry_out", carried_out)

    assert command.main(["--dry-run", "--folder", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "45,679" in shown
    assert shown.index("45,679") < shown.index("memory: too much")
    assert "layouts: not now" in shown
    # After each part the file has all that came before.
    assert written == [sorted(part.name for part in PARTS[:done]) for done in range(len(PARTS))]
    assert json.loads((tmp_path / REPORT).read_text())["passes"] is False


def test_a_part_that_was_skipped_is_no_failure():
    assert passes([finding(PARTS[0], Outcome()), finding(PARTS[1], Outcome(skipped="one GPU"))])


def test_without_a_gpu_it_says_what_can_be_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert command.main(["--folder", str(tmp_path / "found")]) == 1
    assert "PyTorch sees no GPU here; `--dry-run`" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_what_is_asked_of_a_gpu_is_what_was_agreed():
    billion = ON_GPU.large

    assert billion.network.num_parameters(128_256) == 1_235_814_400
    assert (billion.sequence_length, billion.precision) == (4096, "bfloat16")
    assert ON_GPU.micro_batches == (1, 2, 4, 8)
    assert len({attrs.astuple(case, recurse=False) for case in ON_GPU.memory}) == 8
    assert {case.precision for case in ON_GPU.memory} == {"float32", "bfloat16"}
    assert ON_GPU.precisions == ("float32", "bfloat16")
    assert ON_GPU.layouts == ("data", "tensor", "pipeline")
    assert ON_GPU.new_tokens == 64
    assert {machine.deterministic for machine in ON_GPU.machines} == {True, False}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_is_explained(part):
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")

    assert f"\n| `{part.name}` |" in page


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_TNT", "products"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute", "products"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_nn_align8>", "products"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<…>", "attention"),
        ("fmha_cutlassB_bf16_aligned_64x64_k64_sm80(PyTorchMemEffAttention::…)", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1_kernel0_0", "attention"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "communication"),
        (
            "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::"
            "FusedOptimizerTensorListMetadata<4>, at::native::(anonymous namespace)::FusedAdamMathFunctor<float, 4>>",
            "optimizer and gradients",
        ),
        ("void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float, true>", "norms"),
        ("Memcpy HtoD (Pinned -> Device)", "copies"),
        ("void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda(…)>", "copies"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::NormTwoOps<…>>>", "sums"),
        ("void at::native::vectorized_elementwise_kernel<8, at::native::silu_kernel(…)>", "element by element"),
        ("triton_poi_fused__to_copy_add_mul_silu_3", "element by element"),
        ("something_new", "other"),
        ("aten::mm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel, kind):
    assert kernels.class_of(kernel) == kind


def test_what_no_kernel_takes_of_a_step_is_seen():
    found = kernels.by_class([("aten::mm", 0.5), ("aten::mm", 0.1), ("aten::add", 0.1)], whole=1.0)

    assert {name: round(seconds, 6) for name, seconds in found.items() if seconds} == {
        "products": 0.6,
        "element by element": 0.1,
        "none": 0.3,
    }


def test_a_layer_keeps_what_was_measured_of_llama_7b():
    """41.5 bytes a token and hidden unit in bfloat16, which live tensors of a rank on a CPU came to."""
    network = Llama(
        hidden_size=4096,
        num_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        intermediate_size=11_008,
    )
    case = Case(
        name="7B", network=network, vocab_size=32_000, sequence_length=4096, sequences=2, micro_batch=1, recompute=False
    )
    deeper = attrs.evolve(case, network=attrs.evolve(network, num_layers=33))

    weights = deeper.network.num_parameters(32_000) - network.num_parameters(32_000)
    grown = footprint.peak_bytes(deeper) - footprint.peak_bytes(case) - 18 * weights

    assert grown / (4096 * 4096) == pytest.approx(41.5, rel=0.002)


def test_the_formula_knows_how_many_logits_there_are():
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron.networks.loss import PIECE

    assert PIECE["cuda"] == footprint.PIECE


def test_operations_are_those_that_papers_count():
    """2.625 TFLOP a token of 8,192 for Llama 3 405B, by PaLM's formula."""
    size = {"tokens": 1, "length": 8192}

    counted = work.step_flops(LLAMA_405B, 128_256, **size, predicted=1.0) + work.attention_flops(LLAMA_405B, **size) / 2

    assert counted == pytest.approx(2.625e12, rel=1e-3)


def test_the_share_of_the_peak_is_that_of_a_step():
    found = Measured(seconds=2.0, peak_bytes=3 * 10**9, kernels={}, longest=[])
    case = DRY.large

    speed = speed_of(case, found, peak=1e9)

    assert (speed["tokens/s"], speed["peak, GB"]) == (case.tokens / 2, 3.0)
    needed = work.step_flops(
        case.network, case.vocab_size, tokens=case.tokens, length=case.sequence_length, predicted=1.0
    )
    assert math.isclose(speed["needed work, %"], 50 * needed / 1e9)
    assert speed["MFU, %"] > speed["needed work, %"]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
    ],
)
def test_cards_are_known_by_their_names(name, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)

    assert peaks.peak_of("cuda").flops == peak


def test_a_card_that_is_not_known_is_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L40")
    monkeypatch.setattr(peaks, "_product", lambda device: 5e12)

    assert str(peaks.peak_of("cuda")) == "5 TFLOP/s (a product here)"
