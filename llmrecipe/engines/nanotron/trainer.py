"""nanotron's trainer with the recipe's data, network, optimizer and schedule, whole checkpoints and exact metrics."""

import functools
import math
import time
from pathlib import Path
from typing import Any

import nanotron.trainer
import torch
from nanotron import distributed as dist
from nanotron.parallel.data_parallel.utils import sync_gradients_across_dp
from nanotron.parallel.pipeline_parallel.utils import get_input_output_pp_ranks
from nanotron.parallel.tied_parameters import sync_tied_weights_gradients
from torch.nn.parallel import DistributedDataParallel

from llmrecipe import artifacts
from llmrecipe.engines.device import peak_memory_mb
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron import data, gradients
from llmrecipe.engines.nanotron.anomalies import Judge, broken_on
from llmrecipe.engines.nanotron.build import network_of, reader_of
from llmrecipe.engines.nanotron.checkpoint import save_whole
from llmrecipe.engines.nanotron.clock import clock_of
from llmrecipe.engines.nanotron.communication import Communication, summary
from llmrecipe.engines.nanotron.feeding import Feed, placed
from llmrecipe.engines.nanotron.job import Job, NanotronFolder
from llmrecipe.engines.nanotron.journal import Journal
from llmrecipe.engines.nanotron.optimizer import init_optimizer_and_grad_accumulator
from llmrecipe.engines.nanotron.port import mends
from llmrecipe.engines.nanotron.port.data_parallel import keep_buckets
from llmrecipe.engines.nanotron.port.optimizer_state import load_optimizer
from llmrecipe.engines.nanotron.port.tensor_parallel import overlap
from llmrecipe.engines.nanotron.readings import Reading
from llmrecipe.engines.runs import metrics
from llmrecipe.engines.runs.logs import Logs
from llmrecipe.engines.runs.schedule import learning_rate_scheduler
from llmrecipe.progress import TrainingProgress


class Trainer(nanotron.trainer.DistributedTrainer):
    """One rank of a run."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.training = job.section.training
        self.state = NanotronFolder(Path(job.state))
        # nanotron's trainer looks these up in its module and offers no other way in.
        nanotron.trainer.load_optimizer = load_optimizer
        nanotron.trainer.init_optimizer_and_grad_accumulator = functools.partial(
            init_optimizer_and_grad_accumulator, job.section, self._is_frozen
        )
        nanotron.trainer.lr_scheduler_builder = self._build_scheduler
        super().__init__(str(self.state.nanotron_config), model_class=network_of(job))

    def run(self) -> None:
        """Train to the last step."""
        reader, self.heldout = (reader_of(self.job, split, self.shard) for split in ("train", "heldout"))
        batches = data.TrainingBatches(reader, seed=self.training.seed, consumed=self.consumed_train_samples)
        self.feed = Feed(
            reader, batches, self.n_micro_batches_per_batch, self.parallel_context.dp_pg, self.job.machine.device
        )
        self.train(batches)

    @property
    def is_logger(self) -> bool:
        """Whether this is the one rank that knows the loss and writes it down."""
        return dist.get_rank(self.parallel_context.world_pg) == self.logger_ranks[0]

    @functools.cached_property
    def shard(self) -> data.Shard:
        """What this rank reads of a batch."""
        input_rank, output_rank = get_input_output_pp_ranks(model=self.model)
        return data.Shard(
            data_rank=dist.get_rank(self.parallel_context.dp_pg),
            data_size=self.parallel_context.dp_pg.size(),
            micro_batch_size=self.micro_batch_size,
            pipeline_rank=dist.get_rank(self.parallel_context.pp_pg),
            input_rank=input_rank,
            output_rank=output_rank,
        )

    def _is_frozen(self, name: str) -> bool:
        """Whether a weight keeps its value through the whole run."""
        return self.training.parameters == "head" and not name.startswith(architecture_of(self.job.network).head)

    def _build_scheduler(self, optimizer: Any, **_: Any) -> torch.optim.lr_scheduler.LambdaLR:
        return learning_rate_scheduler(self.training, self.job.sequence_length, optimizer.get_base_optimizer())

    def _init_model(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        model = super()._init_model(*args, **kwargs)
        keep_buckets(model)
        if self.job.section.parallelism.async_tensor_parallel:
            overlap(model)
        if self.training.precision == "float8":
            # Of an optional package.
            from llmrecipe.engines.nanotron.port import float8

            float8.use_in(
                model.module if isinstance(model, DistributedDataParallel) else model,
                but_for=architecture_of(self.job.network).head,
            )
        return model

    def post_init(self) -> None:
        """Mend the learning rate of a resumed run, and time what ranks wait for."""
        if self.init_checkpoint_path is not None:
            # nanotron builds the scheduler after it has loaded the optimizer, which leaves the first resumed step
            # with the learning rate of step 0.
            groups = self.optimizer.get_base_optimizer().param_groups
            # By this run's schedule: what the scheduler has loaded was the next one's of a run that may have been
            # shorter.
            for group, learning_rate in zip(groups, self.lr_scheduler.get_lr(), strict=True):
                group["lr"] = learning_rate
        self.saved_step = self.start_iteration_step
        self.clock = clock_of(self._device)
        self.communication = Communication(self.parallel_context, self.clock)
        self.communication.attach(self.model, has_hook=self.grad_accumulator is not None)

    def pre_training(self, *args: Any, **kwargs: Any) -> None:
        """Take up the metrics where they end, and start the progress; nanotron would start a hosted tracker here."""
        rows = metrics.read(self.state.metrics)
        self.measured = [row for row in rows if "validation_loss" in row]
        self.judge = Judge(self.job, rows, self.parallel_context, speaks=self.is_logger)
        self.journal = Journal(self.judge, self.communication, self._logs(rows) if self.is_logger else None)

    def _logs(self, rows: list[metrics.Row]) -> Logs:
        progress = TrainingProgress(
            self.job.name,
            total=self.config.tokens.train_steps,
            done=self.start_iteration_step,
            tokens_per_step=self.global_batch_size * self.sequence_length,
            interval=self.job.machine.log_interval,
            validation_interval=self.training.validation_interval,
        )
        return Logs(self.job, rows, progress)

    @property
    def judges_later(self) -> bool:
        """Whether a step is judged once the next one is given to the device, which then never waits for this process.

        On a CPU there is nothing to gain.
        """
        return self._device == "cuda" and not self.judge.comes_first

    def training_step(self, dataloader: Any) -> tuple[Any, None]:
        """One step: gradients of the whole batch on every rank, then, unless they are broken, the update.

        As nanotron's, but what the step says of itself is looked at before the weights learn from it, or at least
        before anything that they have learned is kept; see `judges_later`.
        """
        started = self.clock.now()
        self.communication.start()
        learning_rate = self.optimizer.get_base_optimizer().param_groups[0]["lr"]
        batches = self.feed.take()
        outputs = self.pipeline_engine.train_batch_iter(
            model=self.model,
            pg=self.parallel_context.pp_pg,
            batch=iter(batches.micro_batches),
            nb_microbatches=self.n_micro_batches_per_batch,
            grad_accumulator=self.grad_accumulator,
        )
        self.feed.send()
        self.communication.wait("pipeline", mends.finish_sends)
        self._add_up_gradients()
        found = gradients.gradients_of(self.unwrapped_model, self.grad_accumulator)
        for name, gradient in found.items():
            if self._is_frozen(name):
                gradient.zero_()
        norm = gradients.global_norm(self.unwrapped_model, found, self.grad_accumulator, self.parallel_context)
        losses = self._losses(outputs)
        known = {
            "step": self.iteration_step,
            "tokens": self.iteration_step * self.global_batch_size * self.sequence_length,
            "learning_rate": learning_rate,
        }
        names, values = ("grad_norm", *self._parts), self._shared(norm, losses)
        reading = Reading(known, names, values, self._added_up(batches.digest), losses, started, self.clock)
        if self.judges_later or self.judge.is_sound(reading, losses | found):
            gradients.clip(found, norm, self.config.optimizer.clip_grad)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        reading.end(self.communication.stop())
        self.journal.add(reading)
        return outputs, None

    def _add_up_gradients(self) -> None:
        """Over the replicas, where that is still to be done, and over the ranks that hold the same weights."""
        if isinstance(self.model, DistributedDataParallel):
            if self.grad_accumulator is not None:
                self.grad_accumulator.fp32_grads_allreduce_handle.wait()
        elif self.parallel_context.dp_pg.size() > 1:
            sync_gradients_across_dp(
                module=self.model,
                dp_pg=self.parallel_context.dp_pg,
                reduce_op=dist.ReduceOp.AVG,
                reduce_scatter=False,
                grad_accumulator=self.grad_accumulator,
            )
        sync_tied_weights_gradients(
            module=self.unwrapped_model,
            parallel_context=self.parallel_context,
            grad_accumulator=self.grad_accumulator,
        )

    @property
    def _parts(self) -> dict[str, str]:
        """What the network calls the parts of the loss that are logged, by what they are called in the log."""
        # The engine divides the loss itself, which is the sum of the others.
        parts = {"loss": "cross_entropy"} | ({"z_loss": "z_loss"} if self.training.z_loss else {})
        return parts | ({"context_loss": "context"} if self.job.options.predicts_context else {})

    def _losses(self, outputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Means over this replica's micro-batches, on the ranks that see the loss."""
        if not isinstance(outputs[0]["loss"], torch.Tensor):
            return {}
        return {name: torch.stack([output[key] for output in outputs]).mean() for name, key in self._parts.items()}

    def _shared(self, norm: torch.Tensor, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The norm, and the means of the losses over all replicas: on every rank those that the logger has.

        So all ranks judge a step alike, and none has to be asked.
        """
        context = self.parallel_context
        means = torch.stack(list(losses.values())) if losses else norm.new_zeros(len(self._parts))
        if losses and context.dp_pg.size() > 1:
            dist.all_reduce(means, op=dist.ReduceOp.AVG, group=context.dp_pg)
        values = torch.cat((norm[None], means))
        if context.world_pg.size() > 1:
            dist.broadcast(values, src=self.logger_ranks[0], group=context.world_pg)
        return values

    def _added_up(self, digest: torch.Tensor) -> torch.Tensor:
        """Which windows the whole batch read: the sum over the replicas, the same for every layout."""
        if self.parallel_context.dp_pg.size() > 1:
            dist.all_reduce(digest, group=self.parallel_context.dp_pg)
        return digest

    def train_step_logs(self, outputs: Any, loss_avg: None) -> None:
        """Write the metrics of the steps that are done; called on every rank."""
        step = self.iteration_step
        validates = self.job.validates(step)
        if validates:
            self.journal.judge()
            started = time.perf_counter()
            loss = self.validation_loss()
            if not math.isfinite(loss):
                self.judge.stop(f"after step {step} the validation loss is {loss}")
            self.measured.append({"step": step, "validation_loss": loss})
            self.journal.validated(loss, time.perf_counter() - started)
        self.journal.write(all_but=1 if self.judges_later and not validates else 0)
        if self._keeps(step):
            self.save_checkpoint()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross-entropy over the held-out sequences, on every rank."""
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        for batch in data.heldout_batches(self.heldout, sequences=self.training.validation_sequences):
            (here,) = self.heldout.scale([placed(batch, self._device)], None)
            loss = self.unwrapped_model(**here)["cross_entropy"]
            if isinstance(loss, torch.Tensor):
                labels = self.heldout.num_labels(batch)
                sums[0] += loss.double() * labels
                sums[1] += labels
        mends.finish_sends()
        # The ranks of a replica that see the loss see the same: counted alike, they don't change the mean.
        dist.all_reduce(sums, group=self.parallel_context.world_pg)
        return (sums[0] / sums[1]).item()

    # nanotron compares parameters over ranks as it saves.
    @torch.no_grad()
    def save_checkpoint(self) -> None:
        """Write a checkpoint that is whole or absent, once a step, and drop those beyond the number to keep.

        Raises:
            StageError: the weights aren't finite.
        """
        self.journal.write()
        if self.saved_step == self.iteration_step:
            return
        self.saved_step = self.iteration_step
        broken = broken_on(dict(self.unwrapped_model.named_parameters()), self.parallel_context)
        if broken:
            self.judge.stop(f"after step {self.iteration_step} weights are not finite ({broken})")
        # A checkpoint may not outlive the rows of its steps.
        self.journal.sync()
        save_whole(
            self,
            super().save_checkpoint,
            count=self.job.machine.keep_checkpoints,
            keeps=self._keeps,
        )

    def _keeps(self, step: int) -> bool:
        return self.job.keeps(step, self.measured)

    def post_training(self) -> None:
        """Keep the last state, whatever the interval."""
        self.save_checkpoint()
        measured = summary(self.communication.percent(), peak_memory_mb(self._device), self.parallel_context.world_pg)
        if self.is_logger:
            how: dict[str, Any] = {} if self.job.math_library is None else {"math_library": self.job.math_library}
            how |= {"compiled": True} if self.job.compiled else {}
            artifacts.write_json(self.state.measurements, how | measured)
        self.journal.close(f"peak memory of its ranks: {', '.join(map(str, measured['peak_memory_mb']))} MB")

    @property
    def _device(self) -> str:
        return self.job.machine.device
