"""A fine-tuning for named entities, or for labels of texts, as a process of its own, with one thread.

usage: python tuned_run.py START EXAMPLES BATCH SEED BY_LENGTH FOLDER [lora | dora]
Prints what it took as JSON: of the training alone, with its checkpoint.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from llmrecipe import FineTuning, Machine, Parallelism, adapter, optimizer, task
from llmrecipe.engines.finetuning import running
from llmrecipe.engines.finetuning.tasks import launcher, worker
from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.finetuning.tasks.trainer import TaskTrainer
from llmrecipe.engines.runs import jobs
from llmrecipe.engines.tasks.examples import card_of
from llmrecipe.launch.process import keep_freed_memory
from llmrecipe.sections import FineTuneSection

TASKS = {
    each.tag: each
    for each in (
        task.NamedEntities(name="examples", train="train.jsonl"),
        task.Classification(name="examples", train="train.jsonl"),
    )
}

ADAPTERS = {"lora": adapter.LoRA(), "dora": adapter.DoRA()}


def main() -> None:
    """Train, and print what it took."""
    start, examples, batch, seed, by_length, folder, *adapted = sys.argv[1:]
    took: list[tuple[float, float]] = []
    train: Any = TaskTrainer.train

    def timed(trainer: TaskTrainer) -> None:
        started, worked = time.perf_counter(), time.process_time()
        train(trainer)
        took.append((time.perf_counter() - started, time.process_time() - worked))

    def run_ranks(name: str, module: str, arguments: list[str], **_: Any) -> None:
        # As a rank does.
        keep_freed_memory()
        torch.set_num_threads(1)
        worker.train(jobs.read(Path(arguments[0]), Job))

    TaskTrainer.train, running.run_ranks = timed, run_ranks  # type: ignore[method-assign, assignment]
    section = FineTuneSection(
        task=TASKS[card_of(Path(examples)).task],
        training=FineTuning(
            epochs=1,
            global_batch_size=int(batch),
            optimizer=optimizer.AdamW(learning_rate=5e-5, beta2=0.999, weight_decay=0.0),
            group_by_length=by_length == "by-length",
            select="last",
            seed=int(seed),
            adapter=ADAPTERS[adapted[0]] if adapted else None,
        ),
        parallelism=Parallelism(micro_batch_size=int(batch)),
    )
    run = launcher.fine_tune(
        section,
        name="benchmark",
        start=Path(start),
        examples=Path(examples),
        machine=Machine(device="cpu", log_level="warning"),
        scratch=Path(folder),
        events=Path(folder),
    )
    (seconds, worked), tokens = took[0], run.job.tokens
    print(
        json.dumps(
            {
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "tokens_per_cpu_second": tokens / worked,
                "peak_memory_mb": run.measurements["peak_memory_mb"][0],
            }
        )
    )


if __name__ == "__main__":
    main()
