"""A rank of a training that keeps the time of its parts: what the benchmark of overheads starts in a rank's place."""

import functools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmrecipe.engines.nanotron import worker
from llmrecipe.engines.nanotron.port import bootstrap

seconds: Counter[str] = Counter()


def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, its seconds added to those of `part`."""

    @functools.wraps(call)
    def measured(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - started

    return measured


def main() -> None:
    """Train, and write the seconds of each part beside the state."""
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import data, gradients, trainer

    data.TrainingBatches.__next__ = timed("loader", data.TrainingBatches.__next__)
    gradients.global_norm = timed("clipping", gradients.global_norm)
    gradients.clip = timed("clipping", gradients.clip)
    theirs = trainer.Trainer

    class TimedTrainer(theirs):
        def post_init(self) -> None:
            super().post_init()
            engine = self.config.parallelism.pp_engine
            engine.train_batch_iter = timed("forward and backward", engine.train_batch_iter)
            self.optimizer.step = timed("optimizer", self.optimizer.step)
            self.optimizer.zero_grad = timed("optimizer", self.optimizer.zero_grad)

        training_step = timed("step", theirs.training_step)
        train_step_logs = timed("metrics", theirs.train_step_logs)
        validation_loss = timed("validation", theirs.validation_loss)
        save_checkpoint = timed("checkpoint", theirs.save_checkpoint)

    trainer.Trainer = TimedTrainer
    worker.main()
    Path(sys.argv[1]).with_name("parts.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
