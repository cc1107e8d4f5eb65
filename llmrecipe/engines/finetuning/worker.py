"""One rank of a distillation; `torchrun` starts as many as there are replicas."""

import os
from contextlib import nullcontext
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.hidden import Matching
from llmrecipe.engines.finetuning.job import Job
from llmrecipe.engines.finetuning.models import first_student, is_quantized, load_teacher, straight, zeros_of
from llmrecipe.engines.finetuning.trainer import DistillationTrainer
from llmrecipe.engines.runs.rank import rank_of
from llmrecipe.engines.runs.state import StateFolder


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    with rank_of(Job) as job:
        train(job)


def train(job: Job) -> None:
    """Train as `job` says, as one of its ranks."""
    if job.parallelism.data == 1:
        # One rank exchanges nothing, and the Trainer needn't know that it has been launched.
        os.environ.pop("LOCAL_RANK", None)
        # By itself it would cut a batch in as many parts as there are GPUs.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    student = first_student(job)
    zeros = zeros_of(student) if job.keep_zeros else []
    teacher = load_teacher(Path(job.teacher)) if job.predictions is None else None
    matching = None
    if job.section.hidden_states is not None and teacher is not None:
        matching = Matching.of(student, teacher, job.section.hidden_states.weight, job.training.seed)
    if job.resumed:
        states.load_student(StateFolder(Path(job.state)).checkpoint(job.resumed), student)
    trainer = DistillationTrainer(job, student, teacher, zeros, matching)
    with straight().straight_through() if is_quantized(student) else nullcontext():
        trainer.train()
    trainer.finish()


if __name__ == "__main__":
    main()
