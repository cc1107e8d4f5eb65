"""One rank of a run; `torchrun` starts as many as the layout has."""

import logging
import os

from torch.distributed.elastic.multiprocessing.errors import record

from llmrecipe.engines.nanotron.job import Job
from llmrecipe.engines.nanotron.port import bootstrap, linear
from llmrecipe.engines.runs.rank import rank_of


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    with rank_of(Job) as job:
        # What these log as errors they raise, too, and then it is said in our words. nanotron resets levels, not
        # filters.
        for module in ("main", "weights"):
            logger = logging.getLogger(f"nanotron.serialize.{module}")
            logger.addFilter(lambda record: record.levelno < logging.ERROR)
        if job.parallelism.async_tensor_parallel:
            # nanotron asks for it where communication overlaps, on a CPU as well; anything else would be slower with
            # it.
            os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        bootstrap.load("cuda" if job.machine.device == "cuda" else "cpu")
        if job.math_library is not None:
            linear.use(job.math_library)
        from llmrecipe.engines.nanotron.trainer import Trainer

        Trainer(job).run()


if __name__ == "__main__":
    main()
