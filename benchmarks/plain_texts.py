"""The peers of a fine-tuning for labels of texts: a lexicon of feelings, and a linear model of words and their pairs.

usage: python plain_texts.py lexicon|words EXAMPLES [SCORES]
EXAMPLES is a folder that an examples stage left, SCORES the scores.json of the model that the peer is compared with, on
the same test examples. What a peer leaves open is chosen on the validation examples. The lexicon is VADER's (Hutto and
Gilbert 2014), for the labels positive, neutral and negative: `pip install --no-deps vaderSentiment==3.3.2`. Prints what
it took and what it reached, as JSON.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from llmrecipe.engines.evaluation import bootstrap
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.resampling import drawn, ends, generator

Peer = Callable[[Sequence[str]], list[str]]
"""Says the labels of texts."""


def lexicons() -> dict[str, Peer]:
    """VADER with the threshold that its authors name, and with others."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()

    def said(texts: Sequence[str], threshold: float) -> list[str]:
        tones = [analyzer.polarity_scores(text)["compound"] for text in texts]
        return ["positive" if tone >= threshold else "negative" if tone <= -threshold else "neutral" for tone in tones]

    return {
        f"threshold {each}": lambda texts, each=each: said(texts, each) for each in (0.05, 0.01, 0.1, 0.2, 0.3, 0.4)
    }


def linear(texts: Sequence[str], labels: Sequence[str]) -> dict[str, Peer]:
    """Support vector machines on TF-IDF, of several strengths."""
    found: dict[str, Peer] = {}
    for strength in (1.0, 0.1, 0.3, 3.0, 10.0):
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        model = make_pipeline(words, LinearSVC(C=strength, random_state=0)).fit(texts, labels)
        found[f"C {strength}"] = lambda texts, model=model: model.predict(texts).tolist()
    return found


def reached(own: Sequence[str], said: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
    """Which answers are right, and what that is in all."""
    right = np.array([float(one == other) for one, other in zip(own, said, strict=True)])
    numbers = {
        "accuracy": float(right.mean()),
        "interval": bootstrap.ratio(right, np.ones_like(right)),
        "macro_f1": float(f1_score(own, said, average="macro", zero_division=0)),
    }
    return right, numbers


def main() -> None:
    """Choose, measure, and print what it took."""
    kind, directory, *scores = sys.argv[1:]
    splits = {split: examples.read(Path(directory), split) for split in ("train", "validation", "test")}
    texts = {split: [row["text"] for row in rows] for split, rows in splits.items()}
    labels = {split: [row["label"] for row in rows] for split, rows in splits.items()}
    started = time.process_time()
    peers = lexicons() if kind == "lexicon" else linear(texts["train"], labels["train"])
    accuracies = {
        name: reached(labels["validation"], peer(texts["validation"]))[1]["accuracy"] for name, peer in peers.items()
    }
    # The first is the usual one, which others have to beat.
    best = max(accuracies, key=accuracies.__getitem__)
    for name in dict.fromkeys((next(iter(peers)), best)):
        right, numbers = reached(labels["test"], peers[name](texts["test"]))
        told = {"peer": f"{kind}, {name}", "validation_accuracy": accuracies[name], **numbers}
        if scores:
            better = np.array(json.loads(Path(scores[0]).read_text())["accuracy"]["documents"]) - right
            samples = np.concatenate([better[each].mean(axis=1) for each in drawn(len(better), generator())])
            told |= {"ours_is_better_by": float(better.mean()), "interval_of_that": ends(samples)}
        print(json.dumps(told | {"seconds": time.process_time() - started}))


if __name__ == "__main__":
    main()
