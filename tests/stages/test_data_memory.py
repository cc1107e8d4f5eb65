"""A corpus's size changes nothing of the memory that its stages need."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora import run, write_jsonl
from paths import SUPPORT

from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE
from llmrecipe.sections import PrepareSection, TokenizerSection

MEGABYTES = (4, 28)
"""With the smaller one everything that is kept for reuse is there."""

STAGES = """
import sys
from pathlib import Path
from corpora import run
from llmrecipe.recipe.deduplication import ExactDedup
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.sections import PrepareSection, TokenizeSection

section = PrepareSection(source=JsonlFiles(paths=("data/*",)), clean=(ExactDedup(),), heldout=Fraction(0.02), shards=2)
documents = run("prepare", section, Path()).output / "documents"
run("tokenize", TokenizeSection(), Path(), {"documents": documents, "tokenizer": Path(sys.argv[1])})
# Not getrusage: its peak is at least that of the process that started this one.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


def texts(megabytes: float) -> list[str]:
    """Documents of 2 kB, all different, of a thousand words."""
    words = np.array([f"word{number}" for number in range(1000)])
    chosen = np.random.default_rng(0).integers(0, len(words), (int(megabytes * 500), 256))
    return [" ".join(row) for row in words[chosen]]


def peak_megabytes(folder: Path, megabytes: float, tokenizer: Path) -> float:
    """Of a process that prepares and tokenizes so much text."""
    write_jsonl(folder / "data/a.jsonl", texts(megabytes))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), *sys.path])}
    command = [sys.executable, "-c", STAGES, tokenizer]
    return int(subprocess.check_output(command, cwd=folder, env=environment)) * 1024 / 1e6


@pytest.mark.slow
def test_memory_is_flat_with_the_size_of_a_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "few.jsonl", texts(0.2))
    few = PrepareSection(source=JsonlFiles(paths=("few.jsonl",)), clean=(), heldout=Fraction(0.1), shards=1)
    documents = run("prepare", few, tmp_path).output / "documents"
    wanted = TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=1000))
    tokenizer = run("tokenizer", wanted, tmp_path, {"documents": documents}).output / "tokenizer"
    peaks = [peak_megabytes(tmp_path / f"{megabytes}", megabytes, tokenizer) for megabytes in MEGABYTES]
    # The text alone is 24 MB more, and the allocator wanders by 8.
    assert peaks[1] - peaks[0] < 12, peaks
