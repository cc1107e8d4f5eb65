"""transformers' Trainer with a run's batches, optimizer, schedule, checkpoints and rows."""

import itertools
import math
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llmrecipe import artifacts
from llmrecipe.engines.device import peak_memory_mb
from llmrecipe.engines.finetuning import optimizing, states
from llmrecipe.engines.finetuning.learning import learning
from llmrecipe.engines.finetuning.sharing import share
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.jobs import Launch
from llmrecipe.engines.runs.logs import Logs
from llmrecipe.engines.runs.schedule import learning_rate_factor
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.errors import StageError
from llmrecipe.progress import TrainingProgress
from llmrecipe.recipe.training import Training

UNLABELLED = -100
"""In the place of a label where nothing is predicted, as in transformers."""

Batch = dict[str, torch.Tensor]
"""A micro-batch: what a model reads, and `labels`."""


class Run(Launch, Protocol):
    """A job that this engine can do."""

    @property
    def resumed(self) -> int:
        """The step whose checkpoint it goes on from; 0 is the start."""

    @property
    def training(self) -> Training:
        """How long it is, in steps, and how its weights learn."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence at most."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens that are read in a step, over all ranks, in the mean."""

    def validates(self, step: int) -> bool:
        """Whether the model is measured on held-out examples after a step."""

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after a step."""


class RunTrainer(Trainer):
    """One rank of a run."""

    job: Any

    def __init__(self, job: Run, model: PreTrainedModel, *others: PreTrainedModel, parts: tuple[nn.Module, ...] = ()):
        """Go on after the step that `job` resumes, whose weights the model has.

        Args:
            job: the run.
            model: what learns.
            others: models that compute beside it.
            parts: modules of `model` that compute outside of its own forward pass.
        """
        self.job, self.folder = job, StateFolder(Path(job.state))
        arguments = arguments_of(job)
        self.is_half = job.training.precision == "bfloat16"
        if job.parallelism.shares_weights:
            share(model, arguments.device, *parts, is_half=self.is_half)
        for other in others:
            if job.parallelism.shares_weights:
                share(other, arguments.device, is_half=self.is_half)
            else:
                other.to(arguments.device)
        super().__init__(model=model, args=arguments)
        # So that it divides no loss by itself: ours is divided by what a whole step predicts.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_EndOfStep(self))
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

    @abstractmethod
    def micro_batches(self) -> Iterator[Batch]:
        """This rank's micro-batches without end, from the step on that the run goes on from."""

    @abstractmethod
    def summed_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        """The loss of a micro-batch, added up over what is predicted."""

    @abstractmethod
    def measured(self) -> dict[str, float]:
        """What a row has of held-out examples, the same on every rank; `validation_loss` is shown."""

    def count(self, inputs: Batch) -> torch.Tensor:
        """How much is predicted in a micro-batch."""
        return (inputs["labels"] != UNLABELLED).sum()

    def rate(self) -> Callable[[nn.Parameter], float]:
        """The share of the learning rate that a parameter learns by."""
        return lambda _: 1.0

    def parts(self) -> states.Parts:
        """What a checkpoint has."""
        return {states.WEIGHTS: learning(self.model), states.OPTIMIZER: optimizing.state_of(self.optimizer)}

    @property
    def step(self) -> int:
        """Steps of the whole run that are done."""
        return self.job.resumed + int(self.state.global_step)

    def get_train_dataloader(self) -> Any:
        """This rank's micro-batches, without end."""
        return _Endless(self.micro_batches)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The recipe's optimizer, as it was after the step that the run goes on from."""
        self.optimizer = optimizing.optimizer_of(self.model, self.job.training.optimizer, self.rate())
        if self.job.resumed:
            checkpoint = self.folder.checkpoint(self.job.resumed)
            optimizing.restore(self.optimizer, states.load(checkpoint, states.OPTIMIZER))
        self.optimizer.register_step_post_hook(lambda *_: self.after_update())
        return self.optimizer

    def after_update(self) -> None:
        """Done with the weights right after each update."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The recipe's schedule, from the step on that the run goes on from."""
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: self._factor(self.job.resumed + step))
        return self.lr_scheduler

    def _factor(self, step: int) -> float:
        return learning_rate_factor(self.job.training, self.job.sequence_length, step)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """A step's micro-batches of this rank, and how much all ranks predict in it."""
        taken = list(itertools.islice(epoch_iterator, num_batches))
        count = sum(self.count(batch) for batch in taken)
        return taken, self.summed(torch.as_tensor(count, device=device))

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: it would look through all weights for each micro-batch."""
        return 0

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This micro-batch's part of the mean over all that is predicted in a step, over all ranks."""
        loss = self.loss_of(model, inputs) / num_items_in_batch
        self._loss += loss.detach()
        # The ranks' gradients are averaged, and these parts add up.
        return loss * self.job.parallelism.data

    def loss_of(self, model: Any, inputs: Batch) -> torch.Tensor:
        """The summed loss in the run's number format."""
        # Products are in bfloat16 then, of weights that stay float32.
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.is_half):
            return self.summed_loss(model, inputs)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Between the gradients and the update: the last moment at which nothing has learned from them."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._row = {"loss": self.summed(self._loss).item(), "grad_norm": float(norm)}
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
            row |= self.measured()
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
            states.save(self.folder, step, self.parts(), self.job.machine.keep_checkpoints)
        else:
            states.give(self.parts())
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Write down what each rank has needed, and close the logs; called on every rank."""
        mine = torch.zeros(self.job.parallelism.data, dtype=torch.int64, device=self.args.device)
        mine[self.args.process_index] = peak_memory_mb(self.job.machine.device)
        peaks = self.summed(mine).tolist()
        if self.logs is not None:
            artifacts.write_json(self.folder.measurements, {"peak_memory_mb": peaks})
            self.logs.close(f"peak memory of its ranks: {', '.join(map(str, peaks))} MB")

    def summed(self, numbers: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks."""
        if self.job.parallelism.data > 1:
            numbers = numbers.clone()
            dist.all_reduce(numbers)
        return numbers


class _Endless:
    """Micro-batches as the Trainer asks for them."""

    def __init__(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self._batches()


class _EndOfStep(TrainerCallback):
    """Tells the trainer that a step is done."""

    def __init__(self, trainer: RunTrainer) -> None:
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


def arguments_of(job: Run) -> TrainingArguments:
    """What the Trainer is told; its `device` is this rank's, and lets ranks hear each other."""
    training, parallelism = job.training, job.parallelism
    if parallelism.data == 1:
        # One rank exchanges nothing, and the Trainer needn't know that it has been launched.
        os.environ.pop("LOCAL_RANK", None)
        # By itself it would cut a batch in as many parts as there are GPUs.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
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
