"""Exporting, quantizing and pruning hold a tensor or two in memory, however many a model has."""

import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import tiny_model
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from llmrecipe import artifacts, cards, identity
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import quantization
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import weights
from llmrecipe.recipe.hessians import hessians_bytes
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.prune import Measured, SparseGPT, Width
from llmrecipe.recipe.scheme import AWQ, NVFP4A16, W4A16, W8A16, RoundToNearest
from llmrecipe.sections import QuantizeSection

NETWORK = Llama(hidden_size=512, num_layers=16, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1536)
"""Of 218 MB in float32, the largest tensor of which has 3 MB."""

LARGEST_MB = 3
ROOM_MB = 170
"""Far less than the model: for the library's own buffers and what is computed in between, which an allocator may keep
longer on a busy machine."""

SECTIONS = {
    name: QuantizeSection(scheme=scheme, calibration_samples=8, seed=0)
    for name, scheme in {
        "gptq": W4A16(group_size=64),
        "nearest": W8A16(observer="minmax", rounding=RoundToNearest()),
        "awq": W4A16(group_size=64, observer="minmax", rounding=AWQ(grid_points=3)),
        "expanded_to_bfloat16": NVFP4A16(observer="minmax", rounding=RoundToNearest()),
    }.items()
}

METHODS = {"sparse": SparseGPT(sparsity=Measured(share=0.5)), "narrow": Width(intermediate_size=1024)}

PEAK = """
import sys, threading
from pathlib import Path

import torch

def anonymous():
    size, resident, shared = map(int, Path("/proc/self/statm").read_text().split()[:3])
    return (resident - shared) * 4096 / 1e6

def peak_of(work):
    ended, seen = threading.Event(), [anonymous()]
    def watch():
        while not ended.wait(0.002):
            seen.append(anonymous())
    thread = threading.Thread(target=watch)
    thread.start()
    work()
    ended.set()
    thread.join()
    print("peak", max(seen) - seen[0])

torch.set_num_threads(1)
# Its first product takes what torch and oneDNN keep for good.
torch.nn.Linear(64, 64)(torch.ones(64, 64))
folder = Path(sys.argv[1])
"""

EXPORT = """
import tiny_model
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.sections import ExportSection
from llmrecipe.stages import export
bootstrap.load("cpu")
inputs = {"checkpoint": folder / "checkpoint", "tokenizer": folder / "tokenizer"}
context = tiny_model.stage_context(ExportSection(), inputs, folder / "exported", device="cpu")
peak_of(lambda: export.run(context))
"""

QUANTIZE = """
from types import SimpleNamespace
from llmrecipe import cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import oneshot, quantization
from llmrecipe.launch.process import return_freed_memory
from test_weights_memory import SECTIONS
return_freed_memory()
oneshot.show_log("error")
section = SECTIONS[sys.argv[2]]
source, scratch = folder / "model", folder / f"scratch-{sys.argv[2]}"
scratch.mkdir()
rows = torch.randint(0, 320, (8, 32), generator=torch.Generator().manual_seed(0))
text = SimpleNamespace(samples=8, one=lambda: rows[:1], sequences=lambda: rows)
card = cards.read(source, ModelCard)
peak_of(lambda: quantization.quantize_and_verify(
    source, folder / sys.argv[2], card, section, text, torch.device("cpu"), scratch
))
assert not list(scratch.iterdir())
"""

GATHER = """
from types import SimpleNamespace
from llmrecipe.engines.compression import oneshot
from llmrecipe.engines.compression.gathering import gather
from llmrecipe.launch.process import return_freed_memory
return_freed_memory()
oneshot.show_log("error")
output, scratch = folder / "gathered", folder / "scratch-gathered"
output.mkdir()
scratch.mkdir()
rows = torch.randint(0, 320, (8, 32), generator=torch.Generator().manual_seed(0))
text = SimpleNamespace(samples=8, seed=0, sequences=lambda: rows)
peak_of(lambda: gather(folder / "model", output, {}, text, torch.device("cpu"), scratch))
assert not list(scratch.iterdir())
"""

PRUNE = """
from types import SimpleNamespace
from llmrecipe import cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import oneshot, pruning
from llmrecipe.launch.process import return_freed_memory
from test_weights_memory import METHODS
return_freed_memory()
oneshot.show_log("error")
source, scratch = folder / "model", folder / f"scratch-{sys.argv[2]}"
scratch.mkdir()
rows = torch.randint(0, 320, (8, 32), generator=torch.Generator().manual_seed(0))
text = SimpleNamespace(sequences=lambda: rows)
card = cards.read(source, ModelCard)
peak_of(lambda: pruning.prune_and_verify(
    source, folder / sys.argv[2], card, METHODS[sys.argv[2]], text, torch.device("cpu"), scratch
))
assert not list(scratch.iterdir())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model, its tokenizer, and a checkpoint with the same weights."""
    folder = tmp_path_factory.mktemp("made")
    tiny_model.write_tokenizer(folder / "tokenizer")
    artifacts.seal(folder / "tokenizer", "tokenizer")
    architecture = architecture_of(NETWORK)
    torch.manual_seed(0)
    network = LlamaForCausalLM(architecture.transformers_config(NETWORK, 320, 0))
    digest = identity.of_artifact(folder / "tokenizer")
    source = tiny_model.write_model(
        network, folder / "tokenizer", folder / "model", network=NETWORK, tokenizer_digest=digest
    )
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    weights.save(architecture.from_transformers(network.state_dict(), NETWORK), checkpoint)
    cards.write(checkpoint, attrs.evolve(cards.read(source, ModelCard), step=1))
    artifacts.write_jsonl(checkpoint / "metrics.jsonl", [{"step": 1, "loss": 3.0}])
    artifacts.seal(checkpoint, "checkpoint")
    return folder


def peak(program: str, *arguments: object) -> float:
    """Anonymous memory that a process of its own takes for its work, in MB."""
    path = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(tiny_model.__file__).parent)]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", path + PEAK + program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split("peak")[-1])


@pytest.mark.slow
def test_exporting_holds_no_model_in_memory(made):
    assert peak(EXPORT, made) < ROOM_MB + LARGEST_MB
    expected, found = (load_file(made / name / "model.safetensors") for name in ("model", "exported/model"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_gathering_hessians_holds_neither_the_model_nor_all_of_them_in_memory(made):
    assert peak(GATHER, made) < ROOM_MB + LARGEST_MB
    stored = sum(file.stat().st_size for file in (made / "gathered").glob("*.safetensors"))
    assert stored > hessians_bytes(NETWORK) > (ROOM_MB + LARGEST_MB) * 1e6


@pytest.mark.slow
@pytest.mark.parametrize("name", SECTIONS)
def test_quantizing_holds_no_model_in_memory_and_writes_what_it_would_in_memory(made, name, tmp_path):
    assert peak(QUANTIZE, made, name) < ROOM_MB + LARGEST_MB

    model = folders.load_model(made / "model").to(torch.bfloat16 if "bfloat16" in name else torch.float32)
    rows = torch.randint(0, 320, (8, 32), generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    calibration = rows if quantization.needs_calibration(SECTIONS[name], model) else rows[:0]
    tokenizer = folders.load_tokenizer(made / "model")
    quantization.quantize(model, tokenizer, SECTIONS[name], calibration, torch.device("cpu"))
    quantization.save_compressed(model, tmp_path / "plain")
    for file in ("model.safetensors", "config.json"):
        assert (made / name / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_pruning_holds_no_model_in_memory(made, name):
    assert peak(PRUNE, made, name) < ROOM_MB + LARGEST_MB
    assert cards.read(made / name, ModelCard).sparse == (name == "sparse")
