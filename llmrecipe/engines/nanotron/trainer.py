"""nanotron's trainer with the recipe's data, network, optimizer and schedule, whole checkpoints and exact metrics."""

import functools
import logging
import math
import time
from collections.abc import Iterable, Iterator
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
from llmrecipe.engines.nanotron import anomalies, data, gradients, metrics
from llmrecipe.engines.nanotron.build import network_of, reader_of
from llmrecipe.engines.nanotron.checkpoint import save_whole
from llmrecipe.engines.nanotron.communication import Communication, summary
from llmrecipe.engines.nanotron.events import Events
from llmrecipe.engines.nanotron.job import Job, StateFolder
from llmrecipe.engines.nanotron.optimizer import init_optimizer_and_grad_accumulator
from llmrecipe.engines.nanotron.port import mends
from llmrecipe.engines.nanotron.port.data_parallel import keep_buckets
from llmrecipe.engines.nanotron.port.optimizer_state import load_optimizer
from llmrecipe.engines.nanotron.port.tensor_parallel import overlap
from llmrecipe.engines.nanotron.schedule import learning_rate_scheduler
from llmrecipe.errors import StageError
from llmrecipe.progress import TrainingProgress

log = logging.getLogger(__name__)

_MOST_SKIPPED = 10
"""Steps in a row that may be skipped: if more are broken, it isn't the batch."""


class Trainer(nanotron.trainer.DistributedTrainer):
    """One rank of a run."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.training = job.section.training
        self.state = StateFolder(Path(job.state))
        # nanotron's trainer looks these up in its module and offers no other way in.
        nanotron.trainer.load_optimizer = load_optimizer
        nanotron.trainer.init_optimizer_and_grad_accumulator = functools.partial(
            init_optimizer_and_grad_accumulator, self.training.optimizer, self._is_frozen
        )
        nanotron.trainer.lr_scheduler_builder = self._build_scheduler
        super().__init__(str(self.state.nanotron_config), model_class=network_of(job))

    def run(self) -> None:
        """Train to the last step."""
        self.reader, self.heldout = (reader_of(self.job, split, self.shard) for split in ("train", "heldout"))
        self.batches = data.TrainingBatches(self.reader, seed=self.training.seed, consumed=self.consumed_train_samples)
        self.train(self.batches)

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
        """Mend the learning rate of a resumed run, and take up the metrics where they end."""
        if self.init_checkpoint_path is not None:
            # nanotron builds the scheduler after it has loaded the optimizer, which leaves the first resumed step
            # with the learning rate of step 0.
            groups = self.optimizer.get_base_optimizer().param_groups
            # By this run's schedule: what the scheduler has loaded was the next one's of a run that may have been
            # shorter.
            for group, learning_rate in zip(groups, self.lr_scheduler.get_lr(), strict=True):
                group["lr"] = learning_rate
        rows = metrics.read(self.state.metrics)
        self.watch = anomalies.Watch(self.training.anomalies, rows)
        self.measured = [row for row in rows if "validation_loss" in row]
        self.saved_step = self.start_iteration_step
        self.communication = Communication(self.parallel_context, self._device)
        self.communication.attach(self.model, has_hook=self.grad_accumulator is not None)
        if self.is_logger:
            self.events = Events(self.job.machine.events, Path(self.job.events), self.job.name, rows)
            self.metrics_log = metrics.MetricsLog(self.state.metrics)
            self.timings_log = metrics.MetricsLog(self.state.timings)

    def pre_training(self, *args: Any, **kwargs: Any) -> None:
        """Start the progress; nanotron would start a hosted tracker here."""
        if self.is_logger:
            self.progress = TrainingProgress(
                self.job.name,
                total=self.config.tokens.train_steps,
                done=self.start_iteration_step,
                tokens_per_step=self.global_batch_size * self.sequence_length,
                interval=self.job.machine.log_interval,
                validation_interval=self.training.validation_interval,
            )

    def training_step(self, dataloader: Any) -> tuple[Any, None]:
        """One step: gradients of the whole batch on every rank, then, unless they are broken, the update.

        As nanotron's, but what the step says of itself is looked at before the weights learn from it.
        """
        started = time.perf_counter()
        self.communication.start()
        learning_rate = self.optimizer.get_base_optimizer().param_groups[0]["lr"]
        outputs = self.pipeline_engine.train_batch_iter(
            model=self.model,
            pg=self.parallel_context.pp_pg,
            batch=self._placed(self._next_batch()),
            nb_microbatches=self.n_micro_batches_per_batch,
            grad_accumulator=self.grad_accumulator,
        )
        self.communication.wait("pipeline", mends.finish_sends)
        self._add_up_gradients()
        found = gradients.gradients_of(self.unwrapped_model, self.grad_accumulator)
        for name, gradient in found.items():
            if self._is_frozen(name):
                gradient.zero_()
        norm = gradients.global_norm(self.unwrapped_model, found, self.parallel_context)
        losses = self._losses(outputs)
        self.row = {
            "step": self.iteration_step,
            "tokens": self.iteration_step * self.global_batch_size * self.sequence_length,
            "samples": self._samples(),
            "learning_rate": learning_rate,
            "grad_norm": norm.item(),
            **self._mean_over_replicas(losses),
        }
        if self._is_sound(losses | found):
            gradients.clip(found, norm, self.config.optimizer.clip_grad)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        if self._device == "cuda":
            torch.cuda.synchronize()
        self.seconds_of_step = time.perf_counter() - started
        self.communication.finish(self.seconds_of_step)
        return outputs, None

    def _next_batch(self) -> list[data.MicroBatch]:
        """This replica's micro-batches of a step, their labels scaled over all replicas."""
        batches = [next(self.batches) for _ in range(self.n_micro_batches_per_batch)]
        return self.reader.scale(batches, self.parallel_context.dp_pg)

    def _placed(self, batches: Iterable[data.MicroBatch]) -> Iterator[data.MicroBatch]:
        for batch in batches:
            yield {
                key: value.to(self._device) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }

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

    def _losses(self, outputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Means over this replica's micro-batches, on the ranks that see the loss."""
        if not isinstance(outputs[0]["loss"], torch.Tensor):
            return {}
        # The engine has divided the loss itself, which is the sum of the others.
        parts = {"loss": "cross_entropy"} | ({"z_loss": "z_loss"} if self.training.z_loss else {})
        parts |= {"context_loss": "context"} if self.job.options.predicts_context else {}
        return {name: torch.stack([output[key] for output in outputs]).mean() for name, key in parts.items()}

    def _mean_over_replicas(self, losses: dict[str, torch.Tensor]) -> dict[str, float]:
        if not losses:
            return {}
        means = torch.stack(list(losses.values()))
        if self.parallel_context.dp_pg.size() > 1:
            dist.all_reduce(means, op=dist.ReduceOp.AVG, group=self.parallel_context.dp_pg)
        return dict(zip(losses, means.tolist(), strict=True))

    def _samples(self) -> str:
        """Which windows the whole batch read, as a digest that is the same for every layout."""
        digest = torch.tensor(self.batches.take_digest(), device=self._device)
        if self.parallel_context.dp_pg.size() > 1:
            dist.all_reduce(digest, group=self.parallel_context.dp_pg)
        return f"{digest.item() % 2**64:016x}"

    def _is_sound(self, tensors: dict[str, torch.Tensor]) -> bool:
        """Whether the weights may learn from this step, the same on every rank.

        Raises:
            StageError: they may not, and the recipe wants to stop at such a step, or too many came in a row.
        """
        context = self.parallel_context
        wrong = self.watch.verdict(self.row) if self.is_logger else None
        wrong = anomalies.share(wrong, self.logger_ranks[0], context, self._device)
        self.watch.count(is_skipped=wrong is not None)
        if wrong is None:
            return True
        ranks = anomalies.broken_on(tensors, context)
        where = f" ({ranks})" if ranks else ""
        what = f"step {self.iteration_step} has {wrong}{where}"
        if self.training.anomalies.action == "stop":
            self._stop(
                f"{what}; training.anomalies.action = 'skip' continues from the last checkpoint, past this batch"
            )
        if self.watch.skipped_in_a_row > _MOST_SKIPPED:
            self._stop(f"{what}, and the {_MOST_SKIPPED} steps before it were broken too")
        if self.is_logger:
            log.warning("%s; skipped", what)
        self.row = {
            name: value for name, value in self.row.items() if not isinstance(value, float) or math.isfinite(value)
        } | {"skipped": wrong}
        return False

    def _stop(self, reason: str) -> None:
        raise StageError(
            f"{self.job.name}: {reason}. A lower training.optimizer.learning_rate or training.clip_grad_norm, or a "
            "longer warm-up, may help, and starts afresh; the checkpoints before this step are kept in "
            f"{self.state.checkpoints}"
        )

    def train_step_logs(self, outputs: Any, loss_avg: None) -> None:
        """Write this step's metrics; called on every rank."""
        step = self.iteration_step
        if self.job.validates(step):
            started = time.perf_counter()
            validation_loss = self.validation_loss()
            if not math.isfinite(validation_loss):
                self._stop(f"after step {step} the validation loss is {validation_loss}")
            self.row["validation_loss"] = validation_loss
            self.measured.append({"step": step, "validation_loss": validation_loss})
            if self.is_logger:
                self.progress.validated(validation_loss, time.perf_counter() - started)
        if self.is_logger:
            self.metrics_log.append(self.row)
            self.events.append(self.row)
            self.timings_log.append({"step": step, "seconds": self.seconds_of_step})
            self.progress.step(step, self.seconds_of_step, loss=self.row.get("loss"))
        if self._keeps(step):
            self.save_checkpoint()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean cross-entropy over the held-out sequences, on every rank."""
        total, count = 0.0, 0
        for batch in data.heldout_batches(self.heldout, sequences=self.training.validation_sequences):
            (placed,) = self._placed(self.heldout.scale([batch], None))
            loss = self.unwrapped_model(**placed)["cross_entropy"]
            if isinstance(loss, torch.Tensor):
                labels = self.heldout.num_labels(batch)
                total += loss.item() * labels
                count += labels
        mends.finish_sends()
        sums = torch.tensor([total, count], dtype=torch.float64, device=self._device)
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
        if self.saved_step == self.iteration_step:
            return
        self.saved_step = self.iteration_step
        broken = anomalies.broken_on(dict(self.unwrapped_model.named_parameters()), self.parallel_context)
        if broken:
            self._stop(f"after step {self.iteration_step} weights are not finite ({broken})")
        if self.is_logger:
            # A checkpoint may not outlive the rows of its steps.
            self.metrics_log.sync()
            self.timings_log.sync()
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
            self.metrics_log.close()
            self.timings_log.close()
            self.events.close()
            self.progress.close(f"peak memory of its ranks: {', '.join(map(str, measured['peak_memory_mb']))} MB")

    @property
    def _device(self) -> str:
        return self.job.machine.device
