"""The floor of a fine-tuning on chats: what the start answers, and what the nearest known question was answered.

usage: python untaught.py START EXAMPLES MAX_NEW_TOKENS [run-code]
START is a model's folder, EXAMPLES that of the examples of a task. Prints the numbers of the test examples, as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

from llmrecipe import cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.heads import card_of, work_of
from llmrecipe.recipe.measure import Task
from llmrecipe.recipe.task import Instructions


def nearest(known: list[dict[str, Any]], asked: list[dict[str, Any]]) -> list[str]:
    """The answer to the question that has most in common with each, by its words (TF-IDF, cosine)."""

    def question(row: dict[str, Any]) -> str:
        return str(row["messages"][-2]["content"])

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)).fit(map(question, known))
    likeness = words.transform(map(question, asked)) @ words.transform(map(question, known)).T
    return [str(known[best]["messages"][-1]["content"]) for best in likeness.argmax(axis=1).A1]


def main() -> None:
    """Measure both, and print it."""
    start, folder, tokens = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    asked = Task(max_new_tokens=tokens, run_code="run-code" in sys.argv)
    rows, known = (examples.read(folder, split) for split in ("test", "train"))
    task = Instructions(name="t", train="t.jsonl", packing=False)
    work = work_of(card_of(task, (), cards.read(start, ModelCard).network), folders.load_tokenizer(start))
    model = folders.load_model(start)
    costs = work.answers(model, work.items(rows)[0])
    found = {"start": work.verdict(rows, costs | work.written(model, rows, asked, lambda batches: batches))}
    texts = nearest(known, rows)
    found["nearest"] = work.verdict(rows, {(index, 1): (text, None) for index, text in enumerate(texts)})
    numbers = {name: {key: score.value for key, score in each.scores.items()} for name, each in found.items()}
    numbers["start"] |= {key: found["start"].numbers[key] for key in ("bleu", "chrf")}
    numbers["nearest"] |= {key: found["nearest"].numbers[key] for key in ("bleu", "chrf")}
    print(json.dumps(numbers, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
