"""The peers of a fine-tuning for embeddings: TF-IDF, and an encoder as it was published.

usage: python plain_retrieval.py TRAIN TEST MODEL LENGTH
Files hold a `query` and a `positive` a line. Prints what each reaches on the test file, with 95 % intervals, as JSON.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from llmrecipe.engines.evaluation.bootstrap import ratio
from llmrecipe.engines.tasks import ranking

_AT_ONCE = 64

_WAYS = {
    "words": {},
    "words without digits and signs, sublinear": {"token_pattern": r"[a-zA-Z]+", "sublinear_tf": True},
    "3 to 5 letters, sublinear": {"analyzer": "char_wb", "ngram_range": (3, 5), "sublinear_tf": True},
}
"""Ways to cut a text for TF-IDF; identifiers consist of words."""


def pairs(path: str) -> tuple[list[str], list[str]]:
    """Queries and positives."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return [row["query"] for row in rows], [row["positive"] for row in rows]


@torch.inference_mode()
def embedded(directory: str, texts: list[str], length: int) -> np.ndarray:
    """The mean of the states of each text, of length 1."""
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModel.from_pretrained(directory).eval()
    order = np.argsort([len(text) for text in texts])
    found = np.zeros((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), _AT_ONCE):
        chosen = order[start : start + _AT_ONCE]
        options = {"truncation": True, "max_length": length, "padding": True, "return_tensors": "pt"}
        batch = tokenizer([texts[index] for index in chosen], **options)
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        found[chosen] = functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()
    return found


def reached(similarities: np.ndarray) -> dict[str, list[float]]:
    """Each number with the ends of its interval."""
    rankings, relevant = ranking.ranked(similarities), [{index} for index in range(len(similarities))]
    scores = {
        "ndcg_at_10": ranking.ndcg(rankings, relevant, 10),
        "recall_at_1": ranking.recall(rankings, relevant, 1),
        "recall_at_10": ranking.recall(rankings, relevant, 10),
    }
    ends = {name: ratio(np.array(score.above), np.array(score.below)) or () for name, score in scores.items()}
    return {name: [round(number, 4) for number in (score.value, *ends[name])] for name, score in scores.items()}


def main() -> None:
    """Rank, measure and print."""
    train, test, directory, length = sys.argv[1:]
    torch.set_num_threads(1)
    (known, more), (queries, positives) = pairs(train), pairs(test)
    found = {}
    for name, options in _WAYS.items():
        vectorizer = TfidfVectorizer(**options).fit([*known, *more])
        similarities = (vectorizer.transform(queries) @ vectorizer.transform(positives).T).toarray()
        found[f"TF-IDF of {name}"] = reached(similarities)
    vectors = embedded(directory, [*queries, *positives], int(length))
    found["as published"] = reached(vectors[: len(queries)] @ vectors[len(queries) :].T)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
