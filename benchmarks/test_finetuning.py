"""A fine-tuning against a plain script with transformers' Trainer on the same examples."""

import json
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, LlamaForCausalLM

from llmrecipe import Bert, Llama, MaskedLM, task
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.reading.readers import reader_of

ROUNDS = 3
BATCH = 16
SENTENCES = 480
# That of a MiniLM of 22 million weights.
NETWORK = Bert(hidden_size=384, num_layers=6, num_attention_heads=12, intermediate_size=1536)
VOCAB_SIZE = 30_522


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A model, and sentences of mixed lengths as a file and as examples."""
    root = tmp_path_factory.mktemp("made")
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(2_000)]
    lines = []
    for _ in range(SENTENCES):
        # Most are short, some are long, as in messages.
        for _ in range(min(int(draw.lognormvariate(2.5, 0.8)) + 1, 80)):
            lines.append(f"{draw.choice(words)} {draw.choice(['O', 'O', 'O', 'B-A', 'B-B'])}")
        lines.append("")
    file = root / "train.conll"
    file.write_text("\n".join(lines))
    builder = BertWordPieceTokenizer()
    builder.train_from_iterator([" ".join(words)] * 5, vocab_size=VOCAB_SIZE, show_progress=False)
    builder.save_model(str(root))
    BertTokenizerFast(vocab=str(root / "vocab.txt")).save_pretrained(root / "tokenizer")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    objective = MaskedLM(sequence_length=128)
    model = tiny_model.write_model(
        BertForMaskedLM(config), root / "tokenizer", root / "model", network=NETWORK, objective=objective
    )
    what = task.NamedEntities(name="names", train="train.conll")
    reader = reader_of(what)
    (first, *others) = reader.read(file, "train.conll")
    splits = {
        "train": [row for group in others for row in group],
        "validation": first,
        "test": first,
    }
    labels = reader.labels_of({"train": splits["train"]})
    return {"model": model, "file": file, "examples": examples.write(root / "examples", splits, what.tag, labels)}


def printed(program: str, *arguments: object) -> dict[str, float]:
    """What a process says that its work took."""
    command = [sys.executable, Path(__file__).with_name(program), *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers: dict[str, float] = json.loads(found.splitlines()[-1])
    return numbers


@pytest.mark.parametrize("order", ["as-drawn", "by-length"])
def test_fine_tuning(benchmark, made, tmp_path, order):
    """They take turns, since what others do on the machine is then the same for both."""
    plain: list[float] = []
    grouped: list[float] = []
    ours: list[float] = []

    def run_plain() -> None:
        for found, how in ((plain, "as-drawn"), (grouped, "by-length")):
            given = (made["model"], made["file"], made["file"], 5e-5, 1, BATCH, 1, how)
            found.append(printed("plain_ner.py", *given)["tokens_per_second"])

    def run_ours() -> None:
        given = (made["model"], made["examples"], BATCH, 1, order, tmp_path / str(len(ours)))
        ours.append(printed("tuned_run.py", *given)["tokens_per_second"])

    benchmark.pedantic(run_ours, setup=run_plain, rounds=ROUNDS)
    benchmark.extra_info |= {
        "tokens/s": round(max(ours)),
        "to a plain Trainer": round(max(ours) / max(plain), 3),
        "to one that groups by length": round(max(ours) / max(grouped), 3),
    }
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


@pytest.fixture(scope="module")
def texts(made, tmp_path_factory) -> dict[str, Path]:
    """A decoder of 135 million weights, and texts with labels, of as many tokens as are read at once."""
    root = tmp_path_factory.mktemp("texts")
    network = Llama(
        hidden_size=576,
        num_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
    )
    config = architecture_of(network).transformers_config(network, 49_152, 0)
    model = tiny_model.write_model(
        LlamaForCausalLM(config), made["model"].parent / "tokenizer", root / "model", network=network
    )
    rows = [{"id": str(index), "text": "a b c d " * 32, "label": "xy"[index % 2]} for index in range(32)]
    splits = {"train": rows, "validation": rows[:2], "test": rows[:2]}
    return {"model": model, "examples": examples.write(root / "examples", splits, "classification", ("x", "y"))}


@pytest.mark.parametrize(("given", "batch"), [("made", BATCH), ("texts", 4)])
def test_adapters(benchmark, request, tmp_path, given, batch):
    """The same with all weights and with an adapter; they take turns. Of one thread the CPU's time says more than the
    clock's, where others work on the machine."""
    inputs = request.getfixturevalue(given)
    found: dict[str, list[dict[str, float]]] = {"": [], "lora": [], "dora": []}

    def run(kind: str) -> None:
        folder = tmp_path / f"{kind}{len(found[kind])}"
        told = (inputs["model"], inputs["examples"], batch, 1, "by-length", folder, *([kind] if kind else []))
        found[kind].append(printed("tuned_run.py", *told))

    def run_adapters() -> None:
        run("lora")
        run("dora")

    benchmark.pedantic(run_adapters, setup=lambda: run(""), rounds=ROUNDS)
    for kind, rows in found.items():
        best = max(row["tokens_per_cpu_second"] for row in rows)
        benchmark.extra_info[f"{kind or 'all weights'}, tokens per CPU second"] = round(best)
        benchmark.extra_info[f"{kind or 'all weights'}, MB"] = min(row["peak_memory_mb"] for row in rows)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
