"""One rank of a fine-tuning; `torchrun` starts as many as there are replicas."""

from functools import partial
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.learning import zeros_of
from llmrecipe.engines.finetuning.tasks.adapting import adapted
from llmrecipe.engines.finetuning.tasks.job import Job
from llmrecipe.engines.finetuning.tasks.saying import said
from llmrecipe.engines.finetuning.tasks.trainer import TaskTrainer
from llmrecipe.engines.runs.rank import rank_of
from llmrecipe.engines.runs.state import StateFolder
from llmrecipe.engines.tasks import examples
from llmrecipe.engines.tasks.heads import with_head
from llmrecipe.recipe.kinds import SPLITS


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    with rank_of(Job) as job:
        train(job)


def train(job: Job) -> None:
    """Train as `job` says, as one of its ranks."""
    work = job.work()
    model = with_head(Path(job.start), work, seed=job.training.seed, dropout=job.tuning.dropout)
    read = {split: work.items(examples.read(Path(job.examples), split))[0] for split in SPLITS[:2]}
    # While it is what it starts from, also where a run goes on.
    items = {split: work.prepared(each, partial(said, job, work, model)) for split, each in read.items()}
    zeros = zeros_of(model.base_model) if job.keep_zeros else []
    if job.tuning.adapter:
        adapted(model, job.work(), job.tuning.adapter, job.training.seed)
    if job.resumed:
        states.put(states.load(StateFolder(Path(job.state)).checkpoint(job.resumed), states.WEIGHTS), model)
    trainer = TaskTrainer(job, model, zeros, items)
    trainer.train()
    trainer.finish()


if __name__ == "__main__":
    main()
