"""Vectors of texts, so that a query is near to what it looks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch.nn import functional

from llmrecipe import artifacts
from llmrecipe.engines.tasks import ranking
from llmrecipe.engines.tasks.examples import Example
from llmrecipe.engines.tasks.items import Batch, Item, Padding
from llmrecipe.engines.tasks.score import Score
from llmrecipe.engines.tasks.work import Answers, Verdict, Work
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.task import Embeddings

_QUERY, _POSITIVE = 0, 1
"""Places in an example."""

_AT_ONCE = 1 << 23
"""Similarities that are ranked at once."""

_SHOWN = 200
"""Characters of a text among the errors."""


@attrs.frozen(kw_only=True)
class Pair:
    """A query, its positive, and its negative if it has one."""

    sequences: list[list[int]]
    """The tokens of each."""

    texts: list[int]
    """The number of each text; equal texts have one."""

    example: int
    """The example."""

    @property
    def length(self) -> int:
        """Tokens that are read of it: as many of each text as the longest has."""
        return len(self.sequences) * max(map(len, self.sequences))


class EmbeddingsWork(Work[Embeddings]):
    """A vector for each text."""

    tag: ClassVar[str] = Embeddings.tag

    head: ClassVar[str] = ""

    when_too_long: ClassVar[str] = "the end of a text is left out"

    def items(self, examples: Sequence[Example]) -> tuple[list[Pair], int]:
        """One for each pair; the end of a text is left out if it is too long."""
        keys = [key for key in ("query", "positive", "negative") if key in examples[0]]
        numbers: dict[str, int] = {}
        columns, cut = [], set()
        for key in keys:
            rows, long = self._tokens([example[key] for example in examples])
            columns.append(rows)
            cut.update(long)
        found = [
            Pair(
                sequences=[column[index] for column in columns],
                texts=[numbers.setdefault(example[key], len(numbers)) for key in keys],
                example=index,
            )
            for index, example in enumerate(examples)
        ]
        return found, len(cut)

    def _tokens(self, texts: list[str]) -> tuple[list[list[int]], list[int]]:
        """The tokens of texts, and which of these are too long."""
        # What looks like a special token in a text is none.
        options = {"split_special_tokens": True, "verbose": False}
        rows = self.tokenizer(texts, truncation=True, max_length=self.task.max_length, **options)["input_ids"]
        whole = self.tokenizer(texts, **options)["input_ids"]
        long = [index for index, (one, other) in enumerate(zip(rows, whole, strict=True)) if len(one) < len(other)]
        # A tokenizer may leave out all signs of a text.
        return [row or [self.fill_id] for row in rows], long

    def batch(self, items: Sequence[Pair], fillers: int = 0) -> Batch:
        """All queries, then all positives, then all negatives, one a row, with the number of each text."""
        columns = [
            [Item(input_ids=item.sequences[place], labels=item.texts[place]) for item in items]
            for place in range(len(items[0].sequences))
        ]
        rows = [row for column in columns for row in column]
        made = Padding(token_id=self.fill_id, has_labels_by_token=False).batch(rows)
        counts = torch.ones(len(items), dtype=torch.bool)
        counts[len(items) - fillers :] = False
        return made | {"counts": counts}

    def vectors(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The vector of each text, of length 1, `float32[texts, hidden]`."""
        states, mask = outputs.last_hidden_state.float(), batch["attention_mask"]
        if self.card.pooling == "last":
            pooled = states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
        else:
            pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return functional.normalize(pooled, dim=-1)

    def loss(self, outputs: Any, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """InfoNCE, added up over queries: -log(exp(cos(q, p) / t) / Σ exp(cos(q, c) / t)), over the positive and what
        else is in the batch, but for what is right for the query as well.

        A query that is alone has a loss of 0.
        """
        counts, (queries, candidates) = batch["counts"], self._halves(self.vectors(outputs, batch), batch)
        # In bfloat16, near ones would be equal.
        with torch.autocast(queries.device.type, enabled=False):
            logits = queries @ candidates.T / self.task.temperature
        logits = logits.masked_fill(self._left_out(batch), -torch.inf)
        own = torch.arange(len(counts), device=logits.device)
        return functional.cross_entropy(logits, own, reduction="none")[counts].sum()

    def _left_out(self, batch: Batch) -> torch.Tensor:
        """Which candidates are no negatives of which queries, `bool[queries, candidates]`: fillers, and texts that are
        paired with an equal query."""
        counts, (queries, candidates) = batch["counts"], self._halves(batch["labels"], batch)
        is_same_query = (queries[:, None] == queries[None]) & counts[None]
        is_same_text = candidates[: len(counts), None] == candidates[None]
        is_right = (is_same_query.float() @ is_same_text.float()) > 0
        left_out = is_right | ~counts.repeat(len(candidates) // len(counts))[None]
        left_out[:, : len(counts)].fill_diagonal_(False)
        return left_out

    @staticmethod
    def _halves(rows: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of queries, and those of candidates."""
        count = len(batch["counts"])
        return rows[:count], rows[count:]

    def count(self, batch: Batch) -> torch.Tensor:
        """How many queries count."""
        return batch["counts"].sum()

    def answered(self, outputs: Any, batch: Batch, items: Sequence[Pair]) -> list[tuple[int, int, np.ndarray]]:
        """The vectors of each pair's query and positive."""
        rows = self.vectors(outputs, batch).cpu().numpy()
        places = (_QUERY, _POSITIVE)[: len(items[0].sequences)]
        return [
            (item.example, place, rows[place * len(items) + index])
            for place in places
            for index, item in enumerate(items)
        ]

    def verdict(self, examples: Sequence[Example], answers: Answers) -> Verdict:
        """How far up each query has what is right for it, among all positives that there are."""
        queries, texts = (_first(examples, key) for key in ("query", "positive"))
        numbers = {text: number for number, text in enumerate(texts)}
        relevant: dict[str, set[int]] = {query: set() for query in queries}
        for example in examples:
            relevant[example["query"]].add(numbers[example["positive"]])
        asked = np.stack([answers[index, _QUERY] for index in queries.values()])
        collection = np.stack([answers[index, _POSITIVE] for index in texts.values()])
        scores: dict[str, Score] = {}
        errors: list[dict[str, Any]] = []
        names, firsts, own = list(texts), list(queries.values()), list(relevant.values())
        size = max(1, _AT_ONCE // len(names))
        for start in range(0, len(asked), size):
            rankings, known = ranking.ranked(asked[start : start + size] @ collection.T), own[start : start + size]
            for name, score in _scores(rankings, known).items():
                scores[name] = _joined(scores[name], score) if name in scores else score
            for index, row, right in zip(firsts[start : start + size], rankings, known, strict=True):
                rank = int(np.isin(row, list(right)).argmax())
                if rank > 0:
                    errors.append(
                        {
                            "id": examples[index]["id"],
                            "rank": rank + 1,
                            "query": examples[index]["query"][:_SHOWN],
                            "expected": names[row[rank]][:_SHOWN],
                            "answered": names[row[0]][:_SHOWN],
                        }
                    )
        return Verdict(
            numbers={name: score.value for name, score in scores.items()}
            | {"queries": len(queries), "candidates": len(texts)},
            scores=scores,
            errors=sorted(errors, key=lambda error: (-error["rank"], error["id"])),
        )

    def probe(self, items: Sequence[Pair]) -> torch.Tensor:
        """Tokens to compare what models compute by, `int64[1, length]`."""
        return torch.tensor([items[0].sequences[_QUERY]])

    def files(self, directory: Path, network: Network) -> dict[str, str]:
        """What sentence-transformers reads beside the model: the modules that a text goes through."""
        modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        found: dict[str, Any] = {
            "modules.json": [
                {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
                for index, (path, name) in enumerate(modules.items())
            ],
            "sentence_bert_config.json": {"max_seq_length": self.task.max_length, "do_lower_case": False},
            "1_Pooling/config.json": {
                "word_embedding_dimension": network.hidden_size,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": self.card.pooling == "mean",
                "pooling_mode_max_tokens": False,
                "pooling_mode_mean_sqrt_len_tokens": False,
                "pooling_mode_lasttoken": self.card.pooling == "last",
            },
        }
        return {name: artifacts.to_json(content) for name, content in found.items()}


def _first(examples: Sequence[Example], key: str) -> dict[str, int]:
    """The texts of all examples, each once, with the first example that has it."""
    found: dict[str, int] = {}
    for index, example in enumerate(examples):
        found.setdefault(example[key], index)
    return found


def _scores(rankings: np.ndarray, relevant: Sequence[set[int]]) -> dict[str, Score]:
    return {
        "ndcg_at_10": ranking.ndcg(rankings, relevant, 10),
        "recall_at_1": ranking.recall(rankings, relevant, 1),
        "recall_at_10": ranking.recall(rankings, relevant, 10),
        "mrr": ranking.reciprocal_rank(rankings, relevant),
    }


def _joined(one: Score, other: Score) -> Score:
    return Score(better=one.better, above=one.above + other.above, below=one.below + other.below)


class Embedder:
    """A model that was fine-tuned for `Embeddings`, for programs.

    In the folder lie the files by which `SentenceTransformer` of sentence-transformers finds its way.
    """

    def __init__(self, directory: str | Path) -> None:
        """Load the model in `directory`.

        Raises:
            StageError: there is none that was fine-tuned for this.
        """
        self._model, self._work = EmbeddingsWork.opened(directory)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of texts, each of length 1, `float32[texts, hidden]`: their products are cosines."""
        found = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        if texts:
            items, _ = self._work.items([{"query": text} for text in texts])
            for (index, _), vector in self._work.answers(self._model, items).items():
                found[index] = vector
        return found
