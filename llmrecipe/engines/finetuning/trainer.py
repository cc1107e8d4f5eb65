"""transformers' Trainer with a teacher, and the recipe's data, optimizer, schedule, checkpoints and metrics."""

import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llmrecipe import artifacts
from llmrecipe.engines.device import peak_memory_mb
from llmrecipe.engines.finetuning import batches, states
from llmrecipe.engines.finetuning.batches import UNLABELLED, Batch, Reader
from llmrecipe.engines.finetuning.hidden import Matching, kept
from llmrecipe.engines.finetuning.job import Job
from llmrecipe.engines.finetuning.losses import summed_loss
from llmrecipe.engines.finetuning.models import Zeros, scaled_layers, straight
from llmrecipe.engines.finetuning.optimizing import optimizer_of
from llmrecipe.engines.finetuning.sharing import placed_like, share
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.logs import Logs
from llmrecipe.engines.runs.schedule import learning_rate_factor
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.errors import StageError
from llmrecipe.progress import TrainingProgress


class DistillationTrainer(Trainer):
    """One rank of a run."""

    def __init__(
        self,
        job: Job,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        zeros: Zeros,
        matching: Matching | None,
    ) -> None:
        """Go on after the step that `job` resumes, whose weights the student has.

        Args:
            job: the run.
            student: what learns.
            teacher: what is imitated; None where its predictions are stored.
            zeros: weights that stay zero.
            matching: their layers that are compared, if the job asks for that.
        """
        self.job, self.teacher, self.matching = job, teacher, matching
        self.scaled = scaled_layers(student)
        self.folder = StateFolder(Path(job.state))
        # It refuses to train what says that it is quantized; ours learns through its rounding.
        student.is_quantized = False
        arguments = _arguments(job)
        self.is_half = job.training.precision == "bfloat16"
        if job.parallelism.shares_weights:
            parts = [] if matching is None else [matching.projection]
            share(student, arguments.device, *parts, is_half=self.is_half)
        if teacher is not None and job.parallelism.shares_weights:
            share(teacher, arguments.device, is_half=self.is_half)
        elif teacher is not None:
            teacher.to(arguments.device)
        super().__init__(model=student, args=arguments)
        # So that it divides no loss by itself: ours is divided by what a whole step predicts.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_EndOfStep(self))
        self.zeros = [(layer, placed_like(at, layer.weight)) for layer, at in zeros]
        self.readers = {split: Reader.of(job, split) for split in ("train", "heldout")}
        self.logs = self._open_logs() if self.args.process_index == 0 else None
        self._loss = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self._row: dict[str, float] = {}
        self._started = time.perf_counter()

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        # One that ranks share is there, and may not be moved as a whole.
        if not self.job.parallelism.shares_weights:
            super()._move_model_to_device(model, device)

    def _open_logs(self) -> Logs:
        job = self.job
        progress = TrainingProgress(
            job.name,
            total=job.num_steps,
            done=job.resumed,
            tokens_per_step=job.tokens_per_step,
            interval=job.machine.log_interval,
            validation_interval=job.training.validation_interval,
        )
        return Logs(job, metrics.read(self.folder.metrics), progress)

    @property
    def step(self) -> int:
        """Steps of the whole run that are done."""
        return self.job.resumed + int(self.state.global_step)

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches, without end."""
        return _Endless(self.readers["train"], self.job, self.args.process_index)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The recipe's optimizer, as it was after the step that the run goes on from."""
        self.optimizer = optimizer_of(self.model, self.job.training.optimizer)
        if self.job.resumed:
            states.load_optimizer(self.folder.checkpoint(self.job.resumed), self.optimizer)
        # After the update, whatever momentum made it; and no product, which would leave a zero with a sign.
        self.optimizer.register_step_post_hook(self._make_zero)
        return self.optimizer

    def _make_zero(self, *_: Any) -> None:
        for layer, at in self.zeros:
            layer.weight.data.masked_fill_(at, 0)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The recipe's schedule, from the step on that the run goes on from."""
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: self._factor(self.job.resumed + step))
        return self.lr_scheduler

    def _factor(self, step: int) -> float:
        return learning_rate_factor(self.job.training, self.job.sequence_length, step)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """A step's micro-batches of this rank, and how many tokens all ranks predict in it."""
        taken = list(itertools.islice(epoch_iterator, num_batches))
        count = sum((batch["labels"] != UNLABELLED).sum() for batch in taken)
        return taken, self._summed(torch.as_tensor(count, device=device))

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: it would look through all weights for each micro-batch."""
        return 0

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """A micro-batch forward and backward; with the last of a step all weights have their gradients."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.scaled and self.accelerator.sync_gradients:
            straight().pass_to_scales(self.scaled)
        return loss

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This micro-batch's part of the mean over all tokens that are predicted in a step, over all ranks."""
        # What a model was published with drops; the recipe doesn't, and an exact run draws nothing.
        model.eval()
        loss = self._summed_loss(model, inputs) / num_items_in_batch
        self._loss += loss.detach()
        # The ranks' gradients are averaged, and these parts add up.
        return loss * self.job.parallelism.data

    def _summed_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        # Products are in bfloat16 then, of weights that stay float32.
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.is_half):
            return self._sum(model, inputs)

    def _sum(self, model: Any, inputs: Batch) -> torch.Tensor:
        read = {name: tensor for name, tensor in inputs.items() if name in ("input_ids", "position_ids")}
        labels, size, section = inputs["labels"], self.job.vocab_size, self.job.section
        places = labels != UNLABELLED

        def predicted(numbers: torch.Tensor) -> torch.Tensor:
            return numbers[places] if self.job.objective.is_masked else numbers.flatten(0, -2)

        layers: tuple[Any, Any] = ((), ()) if self.matching is None else (self.matching.student, self.matching.teacher)
        # Rows beyond the tokenizer's vocabulary are padding, and differ from model to model.
        with torch.no_grad(), kept(layers[1]) as its_states:
            if self.teacher is None:
                its = inputs["teacher_log_probabilities"]
            else:
                its = predicted(self.teacher(**read, use_cache=False).logits)[:, :size]
        with kept(layers[0]) as my_states:
            mine = predicted(model(**read, use_cache=False).logits)[:, :size]
        ids = inputs.get("teacher_ids")
        loss = summed_loss(section.loss, section.hard_loss_weight, mine, its, labels[places], ids)
        if self.matching is None:
            return loss
        return loss + self.matching.summed_loss(*(list(map(predicted, each)) for each in (my_states, its_states)))

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Between the gradients and the update: the last moment at which nothing has learned from them."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._row = {"loss": self._summed(self._loss).item(), "grad_norm": float(norm)}
        self._loss = torch.zeros_like(self._loss)
        wrong = [f"{name} = {number}" for name, number in self._row.items() if not math.isfinite(number)]
        if wrong:
            raise StageError(
                f"{self.job.name}: step {self.step + 1} has {' and '.join(wrong)}. A lower "
                "training.optimizer.learning_rate or training.clip_grad_norm, or a longer warm-up, may help, and "
                f"starts afresh; the checkpoints before this step are kept in {self.folder.checkpoints}"
            )
        return norm

    def end_step(self) -> None:
        """Write down the step that is done, measure and save after it where that is due."""
        step, seconds = self.step, time.perf_counter() - self._started
        rate = self.job.training.optimizer.learning_rate * self._factor(step - 1)
        row = {"step": step, "tokens": step * self.job.tokens_per_step, "learning_rate": rate, **self._row}
        if self.job.validates(step):
            started = time.perf_counter()
            row["validation_loss"] = self.validation_loss()
            if self.logs is not None:
                self.logs.progress.validated(row["validation_loss"], time.perf_counter() - started)
        if self.logs is not None:
            self.logs.append(row, seconds)
        if self.job.saves(step):
            self._save_state(step)
        self._started = time.perf_counter()

    def _save_state(self, step: int) -> None:
        if self.logs is not None:
            # A checkpoint may not outlive the rows of its steps.
            self.logs.sync()
            count = self.job.machine.keep_checkpoints
            states.save(self.folder, step, self.model, self.optimizer, count)
        else:
            states.give(self.model, self.optimizer)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean loss over the held-out sequences, on every rank."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch, counts in batches.heldout_batches(self.readers["heldout"], self.job, self.args.process_index):
            inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            loss = self._summed_loss(self.model, inputs)
            if counts:
                sums[0] += loss
                sums[1] += (inputs["labels"] != UNLABELLED).sum()
        loss, count = self._summed(sums).tolist()
        return loss / count

    def finish(self) -> None:
        """Write down what each rank has needed, and close the logs; called on every rank."""
        mine = torch.zeros(self.job.parallelism.data, dtype=torch.int64, device=self.args.device)
        mine[self.args.process_index] = peak_memory_mb(self.job.machine.device)
        peaks = self._summed(mine).tolist()
        if self.logs is not None:
            artifacts.write_json(self.folder.measurements, {"peak_memory_mb": peaks})
            self.logs.close(f"peak memory of its ranks: {', '.join(map(str, peaks))} MB")

    def _summed(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        if self.job.parallelism.data > 1:
            numbers = numbers.clone()
            dist.all_reduce(numbers)
        return numbers


class _Endless:
    """Micro-batches as the Trainer asks for them."""

    def __init__(self, reader: Reader, job: Job, rank: int) -> None:
        self._of = reader, job, rank

    def __iter__(self) -> Iterator[Batch]:
        return batches.training_batches(*self._of)


class _EndOfStep(TrainerCallback):
    """Tells the trainer that a step is done."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        """Keep the gradients' places in what the ranks exchange."""
        wrapped = self._trainer.model_wrapped
        if isinstance(wrapped, DistributedDataParallel):
            # torch exchanges gradients in other buckets after the first step of a process; from three ranks on, the
            # place in a bucket decides in which order parts are added, so a resumed run would differ in the last bit.
            wrapped.register_forward_pre_hook(lambda *_: wrapped.reducer._reset_state())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Write, measure and save."""
        self._trainer.end_step()


def _arguments(job: Job) -> TrainingArguments:
    training, parallelism = job.training, job.parallelism
    return TrainingArguments(
        output_dir=job.state,
        max_steps=job.num_steps - job.resumed,
        per_device_train_batch_size=parallelism.micro_batch_size,
        gradient_accumulation_steps=parallelism.accumulation(training.global_batch_size),
        # 0 leaves gradients alone.
        max_grad_norm=training.clip_grad_norm or 0.0,
        ddp_bucket_cap_mb=parallelism.bucket_size_mb,
        ddp_find_unused_parameters=False,
        use_cpu=job.machine.device == "cpu",
        seed=training.seed,
        logging_strategy="no",
        save_strategy="no",
        log_level="error",
        report_to=[],
        disable_tqdm=True,
    )
