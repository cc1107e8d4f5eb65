"""One rank of a fine-tuning; `torchrun` starts as many as there are replicas."""

from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.learning import zeros_of
from llmrecipe.engines.finetuning.tasks.adapting import adapted
from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.finetuning.tasks.trainer import TaskTrainer
from llmrecipe.engines.runs.rank import rank_of
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.engines.tasks.heads import with_head


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    with rank_of(Job) as job:
        train(job)


def train(job: Job) -> None:
    """Train as `job` says, as one of its ranks."""
    model = with_head(Path(job.start), job.work(), seed=job.training.seed, dropout=job.tuning.dropout)
    zeros = zeros_of(model.base_model) if job.keep_zeros else []
    if job.tuning.adapter:
        adapted(model, job.work(), job.tuning.adapter, job.training.seed)
    if job.resumed:
        states.put(states.load(StateFolder(Path(job.state)).checkpoint(job.resumed), states.WEIGHTS), model)
    trainer = TaskTrainer(job, model, zeros)
    trainer.train()
    trainer.finish()


if __name__ == "__main__":
    main()
