"""A run whose loss is that of a task's examples."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.learning import Zeros, layers_of, learning, refill
from llmrecipe.engines.finetuning.sharing import gather, placed_like
from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.finetuning.tasks.saying import together
from llmrecipe.engines.finetuning.tasks.stopping import SCORE, best_step, last_step
from llmrecipe.engines.finetuning.trainer import Batch, RunTrainer
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.tasks import examples as folder
from llmrecipe.engines.tasks.items import shared, steps
from llmrecipe.engines.tasks.work import Answers, Verdict
from llmrecipe.engines.tasks.work import inputs as read_of

AVERAGE, BEST = "average", "best"
"""Parts of a checkpoint: the running mean of the weights, and the weights that were best so far."""


class TaskTrainer(RunTrainer):
    """One rank of a run."""

    job: Job

    def __init__(self, job: Job, model: PreTrainedModel, zeros: Zeros, items: Mapping[str, Sequence[Any]]) -> None:
        """Go on after the step that `job` resumes, whose weights the model has.

        Args:
            job: the run.
            model: what learns.
            zeros: weights that stay zero.
            items: by split, what is read of the examples.
        """
        super().__init__(job, model)
        self.zeros = [(layer, placed_like(at, layer.weight)) for layer, at in zeros]
        self.work, self.items = job.work(), items
        self.validation = folder.read(Path(job.examples), "validation")
        self.weights = self.work.weights(self.items["train"]) if job.tuning.class_weights else None
        checkpoint = self.folder.checkpoint(job.resumed)
        self.average: Mapping[str, torch.Tensor] = {}
        if job.tuning.average_decay is not None:
            known = states.load(checkpoint, AVERAGE)
            self.average = {
                name: placed_like(known[name], weight) if known else weight.detach().clone()
                for name, weight in learning(self.model).items()
            }
        self.best = states.load(checkpoint, BEST) if self.args.process_index == 0 else {}
        rows = [row for row in metrics.read(self.folder.metrics) if row["step"] <= job.resumed]
        self.measurements = [row for row in rows if SCORE in row]
        self._micro_batch = 0

    def micro_batches(self) -> Iterator[Batch]:
        """This rank's micro-batches without end; a step's go round the ranks."""
        job, size = self.job, self.job.parallelism.micro_batch_size
        read = steps(
            self.items["train"],
            job.training.global_batch_size,
            job.training.seed,
            by_length=job.tuning.group_by_length,
            first=job.resumed,
        )
        rounds = job.parallelism.accumulation(job.training.global_batch_size)
        for items in read:
            for mine, fillers in shared(items, size, job.parallelism.data, self.args.process_index, rounds):
                yield self.work.batch(mine, fillers)

    def rate(self) -> Callable[[nn.Parameter], float]:
        """Less for what lies nearer to the text."""
        decay = self.job.tuning.layer_decay
        if decay == 1:
            return super().rate()
        layers = layers_of(self.model)
        depths = {id(weight): depth for depth, layer in enumerate(layers, 1) for weight in layer.parameters()}
        embeddings = {id(weight) for weight in self.model.base_model.parameters()} - depths.keys()
        # What is in the body and in no layer comes before the layers, but for the last norm and the pooler.
        above = {
            id(weight)
            for name, module in self.model.base_model.named_children()
            if name in ("norm", "final_norm", "pooler")
            for weight in module.parameters()
        }
        top = len(layers) + 1
        known = depths | dict.fromkeys(embeddings - above, 0)
        return lambda weight: decay ** (top - known.get(id(weight), top))

    def count(self, inputs: Batch) -> torch.Tensor:
        """How much counts."""
        return self.work.count(inputs)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """A micro-batch forward and backward."""
        # What is dropped is the same in a run that was resumed.
        place = [self.job.training.seed, self.step, self._micro_batch, self.args.process_index]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))
        self._micro_batch += 1
        return super().training_step(model, inputs, num_items_in_batch)

    def summed_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        """The loss of what counts."""
        weights = None if self.weights is None else self.weights.to(self.args.device)
        return self.work.loss(model(**read_of(inputs)), inputs, weights)

    @torch.no_grad()
    def after_update(self) -> None:
        """Keep zeros, and add the weights to their mean."""
        self._micro_batch = 0
        refill(self.zeros)
        if self.average:
            step = self.step + 1
            most = self.job.tuning.average_decay or 0.0
            share = 1 - min(most, (1 + step) / (10 + step))
            for name, weight in learning(self.model).items():
                self.average[name].lerp_(weight.detach(), share)

    @torch.no_grad()
    def measured(self) -> dict[str, float]:
        """Loss and score on the validation examples; keeps the weights if they are the best so far."""
        with self._averaged():
            loss, verdict = self._verdict()
            first = next(iter(verdict.scores.values()))
            score = first.value if first.better == "higher" else -first.value
            row = {"validation_loss": loss, SCORE: score}
            self.measurements.append({"step": self.step, **row})
            if self.job.tuning.select == "best" and best_step(self.measurements) == self.step:
                self._keep_best()
        if last_step(self.measurements, self.job.tuning.early_stopping) == self.step:
            self.control.should_training_stop = True
        return row

    def _keep_best(self) -> None:
        weights = {name: gather(weight.detach()) for name, weight in learning(self.model).items()}
        if self.args.process_index == 0:
            self.best = {name: weight.to("cpu", copy=True) for name, weight in weights.items()}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Meanwhile, the model has the mean of its weights, if there is one."""
        if not self.average:
            yield
            return
        own = {name: weight.detach().clone() for name, weight in learning(self.model).items()}
        for name, weight in learning(self.model).items():
            weight.copy_(self.average[name])
        try:
            yield
        finally:
            for name, weight in learning(self.model).items():
                weight.copy_(own[name])

    def _verdict(self) -> tuple[float, Verdict]:
        """The mean loss of the validation examples, and how good the answers are; the same on every rank."""
        self.model.eval()
        items, size, ranks = self.items["validation"], self.job.parallelism.micro_batch_size, self.job.parallelism.data
        rounds = -(-len(items) // (size * ranks))
        ordered = sorted(items, key=lambda item: item.length)
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        found: Answers = {}
        for mine, fillers in shared(ordered, size, ranks, self.args.process_index, rounds):
            batch = {name: each.to(self.args.device) for name, each in self.work.batch(mine, fillers).items()}
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.is_half):
                outputs = self.model(**read_of(batch))
                sums[0] += self.work.loss(outputs, batch, None)
            sums[1] += self.work.count(batch)
            if not fillers:
                said = self.work.answered(outputs, batch, mine)
                found |= {(example, place): answer for example, place, answer in said}
        found = together(found, ranks)
        loss, count = self.summed(sums).tolist()
        return loss / max(count, 1), self.work.verdict(self.validation, found)

    def parts(self) -> states.Parts:
        """What a checkpoint has."""
        more = {AVERAGE: self.average, BEST: self.best}
        return {**super().parts(), **{part: weights for part, weights in more.items() if weights}}
