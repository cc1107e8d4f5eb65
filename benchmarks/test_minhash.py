"""MinHash on a set with known near duplicates: documents/s, and what it finds of what exact Jaccard finds."""

import random
import time

import pytest
from datatrove.data import Document
from datatrove.utils.logging import logger

from llmrecipe import Machine
from llmrecipe.engines.datatrove.cleaners.comparing import comparison_of
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.recipe.deduplication import MinHashDedup

WORDS = 304
CLUSTERS = 200
LEVELS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Similarities of a near duplicate to its original. Two near duplicates of one original never stand in the set."""


def documents(ngram: int) -> tuple[list[list[str]], dict[tuple[int, int], float]]:
    """Documents as words; and their pairs that share n-grams, with the exact Jaccard similarity of these."""
    generator = random.Random(0)
    vocabulary = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(20_000)]

    def words(count: int) -> list[str]:
        return generator.choices(vocabulary, k=count)

    texts, pairs = [], []
    for level in LEVELS:
        shared = round((WORDS - ngram + 1) * 2 * level / (1 + level)) + ngram - 1
        for _ in range(CLUSTERS):
            original = words(WORDS)
            pairs.append((len(texts), len(texts) + 1))
            texts += [original, original[:shared] + words(WORDS - shared)]
    grams = [{tuple(text[at : at + ngram]) for at in range(len(text) - ngram + 1)} for text in texts]
    return texts, {(a, b): len(grams[a] & grams[b]) / len(grams[a] | grams[b]) for a, b in pairs}


@pytest.mark.parametrize("cleaner", [MinHashDedup(), MinHashDedup(bands=20, threshold=0.8)], ids=["14 × 8", "20 × 13"])
def test_minhash(benchmark, tmp_path, cleaner):
    texts, exact = documents(cleaner.ngram)
    comparison = comparison_of(cleaner, "clean[0]", tmp_path, 1, keeps_heldout=False)
    logger.disable("datatrove")

    def signed():
        return [Document(text=" ".join(text), id=str(number)) for number, text in enumerate(texts)]

    def run() -> float:
        started = time.monotonic()
        comparison.sign.run(signed(), 0, 1)
        seconds = time.monotonic() - started
        for find in comparison.find:
            steps = [("find", step) for step in find.steps]
            executor.run(
                find.what,
                steps,
                tasks=find.tasks,
                machine=Machine(workers=1),
                work=tmp_path / find.what,
            )
        return seconds

    signing = benchmark.pedantic(run, rounds=1, iterations=1)
    left = {int(document.id) for document in comparison.drop.run(signed(), 0, 1)}

    found = {pair for pair in exact if pair[1] not in left}
    assert len(found) == len(texts) - len(left), "a document without a near duplicate was dropped"
    alike = {pair for pair, similarity in exact.items() if similarity >= cleaner.threshold}
    benchmark.extra_info |= {
        "documents/s": round(len(texts) / benchmark.stats.stats.mean),
        "documents/s, signatures alone": round(len(texts) / signing),
        f"recall at {cleaner.threshold}": round(len(found & alike) / len(alike), 3),
        f"precision at {cleaner.threshold}": round(len(found & alike) / len(found), 3),
    }
    print(f"\n{cleaner.bands} bands × {cleaner.hashes_per_band} hashes: {benchmark.extra_info}")
    print("similarity  found  expected")
    for level in LEVELS:
        pairs = [pair for pair, similarity in exact.items() if abs(similarity - level) < 0.005]
        expected = 1 - (1 - level**cleaner.hashes_per_band) ** cleaner.bands
        print(f"{level:10}  {len(found & set(pairs)) / len(pairs):5.2f}  {expected:8.2f}")
