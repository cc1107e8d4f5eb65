"""A model and the examples of a task to one that does it, with the curves of the run."""

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.saving import save_and_verify, save_plain
from llmrecipe.engines.compression.zeros import refuse_lost
from llmrecipe.engines.finetuning.tasks.launcher import fine_tune, model_of, probe, trained_parameters
from llmrecipe.launch.process import return_freed_memory
from llmrecipe.recipe.evolve import evolve
from llmrecipe.sections import FineTuneSection
from llmrecipe.stages.runner import StageContext
from llmrecipe.stages.tuned import leave

VALIDATION = ("step", "validation_loss", "validation_score")


def run(context: StageContext[FineTuneSection]) -> None:
    """Teach the input `start` the task of the input `examples`, into `model/`.

    Its adapter goes into `adapter/` as well, if that is kept.

    `metrics.json` has the last step, the step whose weights are handed on, and what that scores on the validation
    examples.

    Raises:
        RecipeError: the section can't work with the model.
        StageError: as `fine_tune`, or the saved model isn't the trained one.
    """
    start = context.inputs["start"]
    return_freed_memory()
    finished = fine_tune(
        context.section,
        name=context.name,
        start=start,
        examples=context.inputs["examples"],
        machine=context.machine,
        scratch=context.scratch,
        # A dot is in no stage's name, so no other stage's folder is called so.
        events=context.output.parent / "finetune.events",
    )
    job = finished.job
    adapter = job.tuning.adapter
    model, step = model_of(finished, context.output / "adapter" if adapter and adapter.keep else None)
    source = cards.read(start, ModelCard)
    types = job.section.task.token_types
    network = source.network if types is None else evolve(source.network, type_vocab_size=types)
    card = evolve(
        source,
        network=network,
        made_by=context.section.tag,
        parents=context.parents,
        step=None,
        task=job.task,
    )
    save_and_verify(
        model.to(job.machine.device),
        save_plain,
        context.output / "model",
        card,
        tokenizer=start,
        generation=start if context.section.task.keeps_text else None,
        probe=probe(job).to(job.machine.device),
        scratch=context.scratch,
    )
    if source.sparse:
        refuse_lost(start, context.output / "model")
    chosen, last = finished.metrics[step - 1], finished.metrics[-1]
    artifacts.write_json(
        context.output / "metrics.json",
        {
            "loss": last["loss"],
            "steps": last["step"],
            "step": step,
            "epoch": step / job.training.validation_interval,
            "validation_loss": chosen["validation_loss"],
            "validation_score": chosen["validation_score"],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained_parameters": trained_parameters(finished),
        },
    )
    leave(context, finished, VALIDATION)
