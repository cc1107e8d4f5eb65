"""Preparing and tokenizing against the same libraries called by hand, and a run's loader against the clock."""

import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.formatters.ftfy import FTFYFormatter
from datatrove.pipeline.readers.jsonl import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from made_text import write_jsonl
from tokenizers import Tokenizer

from llmrecipe import ByteLevelBPE, Fraction, Machine, clean, source
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.engines.tokens.writing import write_tokens
from llmrecipe.recipe.kinds import Cleaner
from llmrecipe.sections import PrepareSection, TokenizerSection, TokenizeSection
from llmrecipe.stages import prepare, tokenize, tokenizer
from llmrecipe.stages.runner import StageContext

MEGABYTES = {"few": 24, "many": 96}
"""Few for the filters, which split words with spaCy, and many for the tokenizer."""

WORKERS = 2
VOCAB_SIZE = 8192


def stage(run, section, folder: Path, inputs: dict[str, Path] | None = None) -> Path:
    output = folder / "output"
    output.mkdir(parents=True)
    run(
        StageContext(
            name="benchmark",
            section=section,
            inputs=inputs or {},
            output=output,
            machine=Machine(workers=WORKERS),
            scratch=folder / "scratch",
        )
    )
    return output


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the raw text, the documents and the tokenizer of a corpus."""
    logging.getLogger("llmrecipe").setLevel("WARNING")
    folder = tmp_path_factory.mktemp("project")
    before = Path.cwd()
    os.chdir(folder)
    for name, megabytes in MEGABYTES.items():
        (folder / name).mkdir()
        for shard in range(4):
            write_jsonl(folder / name / f"{shard}.jsonl", megabytes / 4, seed=shard)
    documents = stage(prepare.run, section("many"), folder / "prepare") / "documents"
    wanted = TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=VOCAB_SIZE))
    made = stage(tokenizer.run, wanted, folder / "tokenizer", {"documents": documents}) / "tokenizer"
    yield {"folder": folder, "documents": documents, "tokenizer": made}
    os.chdir(before)


def section(name: str, *cleaners: Cleaner) -> PrepareSection:
    files = source.JsonlFiles(paths=(f"{name}/*.jsonl",))
    return PrepareSection(source=files, clean=cleaners, heldout=Fraction(0.02), shards=4)


def test_prepare(benchmark, project, tmp_path):
    """The prepare stage against datatrove's own executor with the same reader, steps and writer."""

    def by_hand(folder: Path) -> float:
        started = time.perf_counter()
        steps = [
            JsonlReader(str(project["folder"] / "few")),
            FTFYFormatter(),
            GopherQualityFilter(),
            JsonlWriter(str(folder / "written"), output_filename="${rank}.jsonl", compression="zstd"),
        ]
        LocalPipelineExecutor(steps, tasks=4, workers=WORKERS, logging_dir=str(folder / "logs")).run()
        return time.perf_counter() - started

    seconds = [by_hand(tmp_path / "by-hand-0")]
    ours = section("few", clean.FixUnicode(), clean.GopherQuality())
    benchmark.pedantic(stage, (prepare.run, ours, tmp_path / "stage"), rounds=1, iterations=1)
    seconds.append(by_hand(tmp_path / "by-hand-1"))
    _report(benchmark, "MB_per_second", MEGABYTES["few"], benchmark.stats["mean"], min(seconds))


def test_tokenize(benchmark, project, tmp_path):
    """The tokenize stage against `encode_batch` of the same texts, in memory, on the same cores."""
    inputs = {"documents": project["documents"], "tokenizer": project["tokenizer"]}
    benchmark.pedantic(stage, (tokenize.run, TokenizeSection(), tmp_path / "stage", inputs), rounds=1, iterations=1)
    found = json.loads((tmp_path / "stage/output/metrics.json").read_text())

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    alone = Tokenizer.from_file(str(project["tokenizer"] / "tokenizer.json"))
    texts = [
        json.loads(line)["text"]
        for path in sorted(project["folder"].glob("many/*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    started = time.perf_counter()
    tokens = sum(
        len(encoding.ids)
        for start in range(0, len(texts), 1000)
        for encoding in alone.encode_batch(texts[start : start + 1000])
    )
    seconds = time.perf_counter() - started
    assert tokens == pytest.approx(sum(split["tokens"] for split in found.values()), rel=0.01)
    _report(benchmark, "tokens_per_second", tokens, benchmark.stats["mean"], seconds)


@pytest.mark.parametrize("sequence_length", [256, 2048])
def test_loader(benchmark, tmp_path, sequence_length):
    """Batches of a run from a memory-mapped file of 100 million tokens, and single sequences at random."""
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import data

    counts = {"train": 100_000_000, "heldout": 10_000}
    generator = np.random.default_rng(0)
    splits = {split: [generator.integers(0, VOCAB_SIZE, count, dtype="<u2")] for split, count in counts.items()}
    write_tokens(tmp_path, splits, vocab_size=VOCAB_SIZE)
    files = TokenMixture.open([tmp_path], "train", [1.0])
    shard = data.Shard(data_rank=0, data_size=1, micro_batch_size=8, pipeline_rank=0, input_rank=0, output_rank=0)
    reader = data.CausalReader(files=files, shard=shard, sequence_length=sequence_length)
    batches = data.TrainingBatches(reader, seed=1, consumed=0)
    # The order of the first epoch.
    next(batches)

    benchmark.pedantic(next, (batches,), rounds=2000, iterations=1)
    chosen = np.random.default_rng(0).integers(0, files.num_windows(sequence_length), 20_000).tolist()
    started = time.perf_counter()
    for window in chosen:
        files.window(window, sequence_length)
    benchmark.extra_info |= {
        "million_tokens_per_second": round(8 * sequence_length / benchmark.stats["median"] / 1e6, 1),
        "random_access_microseconds": round((time.perf_counter() - started) / len(chosen) * 1e6, 2),
    }
    print(f"\n{sequence_length}: {benchmark.extra_info}")


def _report(benchmark, unit: str, amount: float, ours: float, by_hand: float) -> None:
    benchmark.extra_info |= {
        unit: round(amount / ours, 2),
        f"by_hand_{unit}": round(amount / by_hand, 2),
        "ratio": round(by_hand / ours, 3),
    }
    print(f"\n{benchmark.name}: {benchmark.extra_info}")
