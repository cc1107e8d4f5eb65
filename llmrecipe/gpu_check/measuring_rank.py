"""A rank of a training that measures some steps, and then ends it: what the check starts in a rank's place."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from llmrecipe import artifacts
from llmrecipe.engines.device import choose_kernels, peak_memory_mb
from llmrecipe.engines.nanotron import worker
from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.engines.runs import jobs
from llmrecipe.errors import StageError
from llmrecipe.gpu_check import kernels

MEASURED = "measured.json"
"""What it leaves in the folder of the run's state."""

WARM_UP = 3
"""Steps before: kernels are chosen and compiled, memory is taken, and the optimizer makes its states."""

TIMED = 8
"""Steps that are timed, as one: with whatever a training does between them."""

_LONGEST = 20


def main() -> None:
    """Train as the worker does, by a trainer that measures."""
    job = jobs.read(Path(sys.argv[1]), Job)
    on_gpu = job.machine.device == "cuda"
    if on_gpu:
        # Before nanotron is imported, as in the worker.
        choose_kernels(job.machine)
    bootstrap.load("cuda" if on_gpu else "cpu")
    from llmrecipe.engines.nanotron import trainer

    def now() -> float:
        # A step may return before the GPU has done it.
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    class MeasuringTrainer(trainer.Trainer):
        def training_step(self, dataloader: Any) -> tuple[Any, None]:
            step = self.iteration_step
            if step == WARM_UP + 1:
                self.began = now()
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats()
            if step <= WARM_UP + TIMED:
                return super().training_step(dataloader)
            seconds = (now() - self.began) / TIMED
            peak = torch.cuda.max_memory_allocated() if on_gpu else peak_memory_mb("cpu") * 10**6
            with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
                started = now()
                super().training_step(dataloader)
                whole = now() - started
            found = sorted(_kernels(profiler, on_gpu=on_gpu), key=lambda kernel: kernel[1], reverse=True)
            artifacts.write_json(
                self.state.root / MEASURED,
                {
                    "seconds": seconds,
                    "peak_bytes": peak,
                    "kernels": kernels.by_class(found, whole),
                    "longest": found[:_LONGEST],
                },
            )
            # A checkpoint would be gigabytes that nobody reads.
            raise StageError("it has been measured, and ends here")

    # The worker looks it up in its module and offers no other way in.
    trainer.Trainer = MeasuringTrainer  # type: ignore[misc]
    worker.main()


def _kernels(profiler: profile, *, on_gpu: bool) -> list[tuple[str, float]]:
    """The kernels of a step with their seconds: on a CPU operators, without those that they call."""
    device = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return [
        (event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6)
        for event in profiler.key_averages()
        if event.device_type == device and not event.is_user_annotation
    ]


if __name__ == "__main__":
    main()
