"""A teacher's predictions to a student's weights, with the curves of the run."""

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.saving import save_and_verify
from llmrecipe.engines.compression.zeros import refuse_lost
from llmrecipe.engines.finetuning.distillation import saving
from llmrecipe.engines.finetuning.distillation.launcher import distil, student_of
from llmrecipe.engines.models import folders
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.launch.process import return_freed_memory
from llmrecipe.recipe.evolve import evolve
from llmrecipe.sections import DistilSection
from llmrecipe.stages.runner import StageContext
from llmrecipe.stages.tuned import leave

VALIDATION = ("step", "validation_loss")


def run(context: StageContext[DistilSection]) -> None:
    """Train the student, the input `student` or a network, on what the input `teacher` predicts, into `model/`.

    `metrics.json` has the losses of the last step, and what was read.

    Raises:
        RecipeError: the section can't work with the models.
        StageError: as `distil`, or the saved student isn't the trained one.
    """
    tokens, student, teacher = Tokens.of(context.inputs), None, context.inputs["teacher"]
    if context.section.network is None:
        student = context.inputs["student"]
    predictions = None if context.section.teacher_logits is None else context.inputs["predictions"]
    tokens.say_what_is_lost("train", "heldout")
    return_freed_memory()
    finished = distil(
        context.section,
        name=context.name,
        tokens=tokens,
        student=student,
        teacher=teacher,
        predictions=predictions,
        machine=context.machine,
        scratch=context.scratch,
        # A dot is in no stage's name, so no other stage's folder is called so.
        events=context.output.parent / "distil.events",
    )
    job, training = finished.job, finished.job.training
    source = cards.read(teacher if student is None else student, ModelCard)
    made = {"made_by": context.section.tag, "parents": context.parents, "step": job.num_steps}
    if student is not None and (before := folders.dtype_of(student)) != "float32":
        made["notes"] = (*source.notes, f"it is float32, in which it has learned, in the place of {before}")
    if student is None:
        # Of a teacher, a new network has what both predict and the tokenizer.
        made |= {"network": job.network, "embedding_rows": None, "sparse": False, "notes": ()}
    save_and_verify(
        student_of(finished).to(job.machine.device),
        saving.save,
        context.output / "model",
        evolve(source, **made),
        tokenizer=teacher if student is None else student,
        generation=student,
        probe=saving.probe(tokens, job.sequence_length).to(job.machine.device),
        scratch=context.scratch,
    )
    if student is not None and source.sparse:
        refuse_lost(student, context.output / "model")
    last = finished.metrics[-1]
    artifacts.write_json(
        context.output / "metrics.json",
        {
            "loss": last["loss"],
            "validation_loss": last["validation_loss"],
            "steps": last["step"],
            "tokens": last["tokens"],
            "parameters": job.network.num_parameters(job.vocab_size),
        }
        | tokens.read(job.sequence_length, training.seed, job.num_steps * training.global_batch_size),
    )
    leave(context, finished, VALIDATION)
