"""nanotron's trainer with the recipe's data, optimizer and schedule, whole checkpoints and exact metrics."""

import functools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import nanotron.trainer
import torch
from nanotron import distributed as dist
from nanotron.parallel.pipeline_parallel.utils import get_input_output_pp_ranks

from llmrecipe.engines.nanotron import data, mends
from llmrecipe.engines.nanotron.checkpoint import save_whole
from llmrecipe.engines.nanotron.job import Job, StateFolder
from llmrecipe.engines.nanotron.network import set_rope_theta
from llmrecipe.engines.nanotron.optimizer import init_optimizer_and_grad_accumulator
from llmrecipe.engines.nanotron.optimizer_state import load_optimizer
from llmrecipe.engines.nanotron.schedule import learning_rate_scheduler
from llmrecipe.engines.token_files import TokenFiles
from llmrecipe.errors import StageError
from llmrecipe.progress import TrainingProgress


class Trainer(nanotron.trainer.DistributedTrainer):
    """One rank of a training."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.state = StateFolder(Path(job.state))
        self.heldout = TokenFiles.open(Path(job.tokens), "heldout")
        self.seconds_of_step = 0.0
        # nanotron's trainer looks these up in its module and offers no other way in.
        nanotron.trainer.load_optimizer = load_optimizer
        nanotron.trainer.init_optimizer_and_grad_accumulator = functools.partial(
            init_optimizer_and_grad_accumulator, job.section.training.optimizer
        )
        nanotron.trainer.lr_scheduler_builder = self._build_scheduler
        super().__init__(str(self.state.nanotron_config))

    def run(self) -> None:
        """Train to the last step."""
        files = TokenFiles.open(Path(self.job.tokens), "train")
        self.train(
            data.training_batches(
                files,
                self.shard,
                sequence_length=self.sequence_length,
                global_batch_size=self.global_batch_size,
                seed=self.job.section.training.seed,
                consumed=self.consumed_train_samples,
            )
        )

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

    def _build_scheduler(self, optimizer: Any, **_: Any) -> torch.optim.lr_scheduler.LambdaLR:
        return learning_rate_scheduler(
            self.job.section.training, self.job.sequence_length, optimizer.get_base_optimizer()
        )

    def _init_model(self, *args: Any, **kwargs: Any) -> torch.nn.Module:
        model = super()._init_model(*args, **kwargs)
        set_rope_theta(model, self.job.section.model.rope_theta)
        return model

    def _load_model_checkpoint(self, model: torch.nn.Module) -> torch.nn.Module:
        # nanotron copies into leaf parameters, which autograd forbids.
        with torch.no_grad():
            return super()._load_model_checkpoint(model)

    def post_init(self) -> None:
        """Mend the learning rate of a resumed run and open the metrics."""
        if self.init_checkpoint_path is not None:
            # nanotron builds the scheduler after it has loaded the optimizer, which leaves the first resumed step
            # with the learning rate of step 0.
            groups = self.optimizer.get_base_optimizer().param_groups
            for group, learning_rate in zip(groups, self.lr_scheduler.get_last_lr(), strict=True):
                group["lr"] = learning_rate
        if self.is_logger:
            self.metrics_file = open(self.state.metrics, "a", encoding="utf-8")  # noqa: SIM115
            self.timings_file = open(self.state.timings, "a", encoding="utf-8")  # noqa: SIM115

    def pre_training(self, *args: Any, **kwargs: Any) -> None:
        """Start the progress; nanotron would start a hosted tracker here."""
        if self.is_logger:
            self.progress = TrainingProgress(
                self.job.name,
                total=self.config.tokens.train_steps,
                done=self.start_iteration_step,
                tokens_per_step=self.global_batch_size * self.sequence_length,
                interval=self.job.runtime.log_interval,
            )

    def training_step(self, dataloader: Any) -> tuple[Any, torch.Tensor | None]:
        """nanotron's step, timed."""
        started = time.perf_counter()
        self.learning_rate = self.optimizer.get_base_optimizer().param_groups[0]["lr"]
        result = super().training_step(dataloader)
        mends.finish_sends()
        if self.job.runtime.device == "cuda":
            torch.cuda.synchronize()
        self.seconds_of_step = time.perf_counter() - started
        return result

    def train_step_logs(self, outputs: Any, loss_avg: torch.Tensor | None) -> None:
        """Write this step's metrics; called on every rank, known on one."""
        training, step = self.job.section.training, self.iteration_step
        validation_loss = None
        if step % training.validation_interval == 0 or step == self.config.tokens.train_steps:
            validation_loss = self.validation_loss()
        if not self.is_logger:
            return
        loss = loss_avg.item()
        row = {
            "step": step,
            "tokens": step * self.global_batch_size * self.sequence_length,
            "loss": loss,
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm_unclipped.item(),
        }
        if validation_loss is not None:
            row["validation_loss"] = validation_loss
        broken = [f"{name} = {value}" for name, value in row.items() if not math.isfinite(value)]
        if broken:
            raise StageError(
                f"{self.job.name}: step {step} has {', '.join(broken)}; lower training.optimizer.learning_rate or "
                "training.clip_grad_norm, or lengthen the warm-up, and run `dvc repro` again"
            )
        _append(self.metrics_file, row)
        _append(self.timings_file, {"step": step, "seconds": self.seconds_of_step})
        self.progress.step(step, self.seconds_of_step, loss=loss, validation_loss=validation_loss)

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """Mean loss over the held-out sequences; None on the ranks that see no loss."""
        context, network = self.parallel_context, self.unwrapped_model
        total = torch.zeros(2, dtype=torch.float64, device=self._device)
        network.eval()
        for batch in data.heldout_batches(
            self.heldout,
            self.shard,
            sequence_length=self.sequence_length,
            sequences=self.job.section.training.validation_sequences,
        ):
            placed = {
                key: value.to(self._device) if isinstance(value, torch.Tensor) else value
                for key, value in batch.items()
            }
            loss = network(**placed)["loss"]
            if isinstance(loss, torch.Tensor):
                count = placed["label_mask"].sum()
                total += torch.stack((loss.double() * count, count.double()))
        network.train()
        mends.finish_sends()
        dist.all_reduce(total, group=context.dp_pg)
        return (total[0] / total[1]).item() if total[1] else None

    # nanotron compares parameters over ranks as it saves.
    @torch.no_grad()
    def save_checkpoint(self) -> Path:
        """Write a checkpoint that is whole or absent, and drop those beyond the number to keep."""
        if self.is_logger:
            # A checkpoint may not outlive the rows of its steps.
            os.fsync(self.metrics_file.fileno())
            os.fsync(self.timings_file.fileno())
        return save_whole(self, super().save_checkpoint, keep=self.job.runtime.keep_checkpoints)

    def post_training(self) -> None:
        """Keep the last state, whatever the interval."""
        if self.iteration_step % self.config.checkpoints.checkpoint_interval != 0:
            self.save_checkpoint()
        if self.is_logger:
            self.metrics_file.close()
            self.timings_file.close()
            self.progress.close()

    @property
    def _device(self) -> str:
        return self.job.runtime.device


def _append(file: Any, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, sort_keys=True) + "\n")
    file.flush()
