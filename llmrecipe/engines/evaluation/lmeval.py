"""What lm-eval says of a model: numbers of tasks that the user's own files define."""

import importlib.util
import logging
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from llmrecipe import artifacts, identity
from llmrecipe.engines.evaluation import own
from llmrecipe.engines.evaluation.answers import MOST_ERRORS, stored, with_interval
from llmrecipe.engines.evaluation.own import Measured
from llmrecipe.engines.tasks.score import Score
from llmrecipe.errors import StageError
from llmrecipe.recipe.measure import ERRORS, SCORES, LMEval
from llmrecipe.taskfiles import Function, TaskFiles

log = logging.getLogger(__name__)

_LOGITS_AT_ONCE = 1 << 26

_MOST_AT_ONCE = 64

_SHOWN = 200
"""Characters of a question among the errors, its last."""

_WHOLE = "none"
"""lm-eval's name of the filter that leaves answers as they are."""

_STDERR = "_stderr"

Numbers = dict[str, Any]

Sample = Mapping[str, Any]
"""What lm-eval logs of a document."""


def measured(asked: LMEval, model: Measured, folder: Path, output: Path) -> Numbers:
    """The numbers of a model on tasks that files in `folder` define; its files are written to `output`.

    Raises:
        StageError: lm-eval isn't installed, a task isn't there, asks for what isn't there or can't be asked of this
            model, or a number isn't finite.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise StageError("measure.LMEval needs lm-eval, which isn't installed here; `pip install 'llmrecipe[lmeval]'`")
    files = TaskFiles.read(folder)
    for name in asked.tasks:
        fault = files.fault(name)
        if fault is not None:
            raise StageError(f"{folder}: {fault}")
        _refuse_unknown_metrics(files, name)
    # It may lie relative to where this runs.
    tokenizer = model.tokenizer
    with tempfile.TemporaryDirectory(dir=output.resolve()) as cache, _confined(folder, Path(cache)):
        try:
            tasks, results = _asked(asked, model, tokenizer)
        except Exception as error:
            # Whatever a template, a function of the user's own or a check of lm-eval's raises.
            reason = f"{type(error).__name__}: {error}"
            raise StageError(f"{model.directory}: lm-eval can't ask for {', '.join(asked.tasks)} ({reason})") from error
        errors = [row for name, task in tasks.items() for row in _errors(name, task, results["samples"][name])]
    numbers = _numbers(results, model.directory)
    scores = {
        number: (score, of)
        for name, task in tasks.items()
        for number, score, of in _scores(name, task, results["samples"][name])
    }
    artifacts.write_json(output / SCORES, {name: stored(score, of) for name, (score, of) in scores.items()})
    artifacts.write_jsonl(output / ERRORS, errors)
    told = {
        name: {"examples": found["effective"], "fewshot": results["n-shot"][name]}
        for name, found in results["n-samples"].items()
    }
    intervals = {name: with_interval(score) for name, (score, _) in scores.items()}
    return {**numbers, "intervals": intervals, "tasks": told}


def _refuse_unknown_metrics(files: TaskFiles, name: str) -> None:
    """lm-eval looks on the Hub for those that it doesn't have."""
    import lm_eval.api.metrics

    known = lm_eval.api.registry.metric_registry
    for task, config in files.tasks(name):
        for each in config.get("metric_list") or () if "process_results" not in config else ():
            metric = each.get("metric")
            if not isinstance(metric, Function) and metric not in known:
                raise StageError(
                    f"{files.folder}: {task!r} asks for the metric {metric!r}, which lm-eval doesn't have; it has "
                    f"{', '.join(sorted(known))}, and takes a !function"
                )


def _asked(asked: LMEval, model: Measured, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], Numbers]:
    """The tasks by name, and what lm-eval says, as its `simple_evaluate` does."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    random.seed(asked.seed)
    np.random.seed(asked.seed)
    torch.manual_seed(asked.seed)
    found = TaskManager(include_path=".", include_defaults=False).load(list(asked.tasks))
    for task in found["tasks"].values():
        shots = task.get_config("num_fewshot")
        if asked.num_fewshot is not None and shots != 0:
            shots = asked.num_fewshot
        task.set_config("num_fewshot", shots or 0)
        task.set_fewshot_seed(asked.seed)
    read = {name: min(len(task.eval_docs), asked.limit or sys.maxsize) for name, task in found["tasks"].items()}
    log.info("asks %s", ", ".join(f"{count:,} × {name}" for name, count in read.items()))
    network = model.transformers_model
    at_once = max(1, min(_MOST_AT_ONCE, _LOGITS_AT_ONCE // (model.sequence_length * network.config.vocab_size)))
    lm = HFLM(pretrained=network, tokenizer=tokenizer, backend="causal", batch_size=at_once)
    # Its own standard errors aren't those of an interval.
    results = evaluate(lm, found, limit=asked.limit, bootstrap_iters=0)
    return found["tasks"], results


@contextmanager
def _confined(folder: Path, cache: Path) -> Iterator[None]:
    """Within: paths are meant from `folder`, which stays as it is, there is no network, and data sets are kept in
    `cache`."""
    import datasets
    from huggingface_hub import constants

    class_warnings = logging.getLogger("lm_eval.models.huggingface")
    with ExitStack() as stack:
        for owner, name, value in (
            (datasets.config, "HF_DATASETS_CACHE", cache),
            (datasets.config, "HF_HUB_OFFLINE", True),
            (constants, "HF_HUB_OFFLINE", True),
            # Functions next to the tasks would leave a `__pycache__` there.
            (sys, "dont_write_bytecode", True),
        ):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        class_warnings.addFilter(_is_of_use)
        stack.callback(class_warnings.removeFilter, _is_of_use)
        stack.enter_context(chdir(folder))
        yield


def _is_of_use(record: logging.LogRecord) -> bool:
    """Whether it doesn't say that the model is given as one."""
    return "pretrained" not in record.getMessage()


def _numbers(results: Numbers, directory: Path) -> dict[str, float]:
    """Those of tasks and groups."""
    found: dict[str, float] = {}
    for name, by_metric in results["results"].items():
        for key, value in by_metric.items():
            metric, comma, chosen = key.rpartition(",")
            if not comma or metric.endswith(_STDERR):
                continue
            number = _named(name, metric, chosen)
            if number in found:
                raise StageError(f"{directory}: two numbers are called {number!r}; give a task another name")
            if not _is_number(value) or not math.isfinite(value):
                raise StageError(
                    f"{directory}: {number} is {value!r}, and must be a finite number; exp of the loss is none where "
                    f"the training has diverged; {own.HELPS}"
                )
            found[number] = float(value)
    return found


def _scores(name: str, task: Any, samples: Sequence[Sample]) -> Iterator[tuple[str, Score, str]]:
    """Metrics of a task that are means over its documents, and the digest of what was asked."""
    from lm_eval.api.metrics import mean

    hashes = ("doc_hash", "prompt_hash", "target_hash")
    for chosen in dict.fromkeys(sample["filter"] for sample in samples):
        rows = [sample for sample in samples if sample["filter"] == chosen]
        of = identity.of_work([[row[each] for each in hashes] for row in rows])
        for metric in dict.fromkeys(metric for row in rows for metric in row["metrics"]):
            better = task.higher_is_better().get(metric)
            values: list[Any] = [row.get(metric) for row in rows]
            is_mean = better is not None and task.aggregation().get(metric) is mean
            # Less than 0 has no ratio that says what is kept of it.
            if is_mean and all(_is_number(value) and 0 <= value < math.inf for value in values):
                above = [float(value) for value in values]
                score = Score(better="higher" if better else "lower", above=above, below=[1.0] * len(rows))
                yield _named(name, metric, chosen), score, of


def _errors(name: str, task: Any, samples: Sequence[Sample]) -> list[Numbers]:
    """Documents that were answered wrongly: choices by how much likelier the one that was taken is, what is written
    in the order of the documents."""
    rows = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    if task.OUTPUT_TYPE == "multiple_choice":
        found = [error for row in rows if (error := _wrong_choice(task, row))]
        found.sort(key=lambda error: (-error["surprise"], error["id"]))
    elif task.OUTPUT_TYPE == "generate_until":
        counted = next((number for number in _scores(name, task, rows)), None)
        values = counted[1].above if counted is not None and counted[1].better == "higher" else []
        wrong = [row for row, value in zip(rows, values, strict=False) if not value]
        found = [
            {"expected": _text(row["target"]), "answered": _text(row["filtered_resps"][0])} | _of(row) for row in wrong
        ]
    else:
        return []
    return [{"task": name} | error for error in found[:MOST_ERRORS]]


def _wrong_choice(task: Any, row: Sample) -> Numbers | None:
    choices = [str(choice) for choice in task.doc_to_choice(row["doc"])]
    target = task.doc_to_text(row["doc"]) if task.multiple_input else row["target"]
    each = target if isinstance(target, list) else [target]
    right = [choices.index(one) if isinstance(one, str) and one in choices else one for one in each]
    right = [one for one in right if isinstance(one, int) and 0 <= one < len(choices)]
    logs = [float(answers[0][0]) for answers in row["resps"][: len(choices)]]
    taken = int(np.argmax(logs))
    if not right or taken in right:
        return None
    return {
        "surprise": logs[taken] - max(logs[one] for one in right),
        "expected": " | ".join(choices[one] for one in right),
        "answered": choices[taken],
    } | _of(row)


def _of(row: Sample) -> Numbers:
    return {"id": row["doc_id"], "text": str(row["arguments"][0][0])[-_SHOWN:]}


def _text(answer: Any) -> str:
    return " | ".join(map(str, answer)) if isinstance(answer, list) else str(answer)


def _named(task: str, metric: str, chosen: str) -> str:
    """What a number is called: `capitals_acc`, or `sums_exact_match_strict` of what a filter leaves."""
    return f"{task}_{metric}" if chosen == _WHOLE else f"{task}_{metric}_{chosen}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)
