"""One rank of a distillation; `torchrun` starts as many as there are replicas."""

from contextlib import nullcontext
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.distillation.hidden import Matching
from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.finetuning.distillation.models import first_student, load_teacher
from llmrecipe.engines.finetuning.distillation.trainer import DistillationTrainer
from llmrecipe.engines.finetuning.learning import is_quantized, straight, zeros_of
from llmrecipe.engines.runs.rank import rank_of
from llmrecipe.engines.runs.state import StateFolder


@record
def main() -> None:
    """Train as the job file given on the command line says."""
    with rank_of(Job) as job:
        train(job)


def train(job: Job) -> None:
    """Train as `job` says, as one of its ranks."""
    student = first_student(job)
    zeros = zeros_of(student) if job.keep_zeros else []
    teacher = load_teacher(Path(job.teacher)) if job.predictions is None else None
    matching = None
    if job.section.hidden_states is not None and teacher is not None:
        matching = Matching.of(student, teacher, job.section.hidden_states.weight, job.training.seed)
    if job.resumed:
        checkpoint = StateFolder(Path(job.state)).checkpoint(job.resumed)
        states.put(states.load(checkpoint, states.WEIGHTS), student)
    trainer = DistillationTrainer(job, student, teacher, zeros, matching)
    with straight().straight_through() if is_quantized(student) else nullcontext():
        trainer.train()
    trainer.finish()


if __name__ == "__main__":
    main()
