"""A distillation from its section to its last step: starts the ranks, and resumes what an earlier launch left."""

import logging
from pathlib import Path
from typing import Any

from llmrecipe import artifacts, cards, codec, memory
from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression.oneshot import ours
from llmrecipe.engines.device import check_precision, set_up
from llmrecipe.engines.finetuning import states
from llmrecipe.engines.finetuning.distillation import predicting, worker
from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.finetuning.distillation.models import first_student
from llmrecipe.engines.finetuning.learning import is_quantized
from llmrecipe.engines.finetuning.running import FinishedRun, finish, state_of
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.vocabulary import check_tokenizer
from llmrecipe.engines.runs.events import refuse_missing
from llmrecipe.engines.tokens.enough import refuse_small_corpora
from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.errors import RecipeError, StageError, Violation
from llmrecipe.extensions import modules_of
from llmrecipe.recipe import checks
from llmrecipe.recipe.distilled_checks import length_findings, objective_findings
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.machine import Machine
from llmrecipe.sections import DistilSection

log = logging.getLogger(__name__)


def student_of(run: FinishedRun[Job]) -> Any:
    """The student with what it has learned, on the CPU; of groups of weights, scales have 16 bits."""
    student = first_student(run.job)
    states.put(states.load(run.state.checkpoint(run.job.num_steps), states.WEIGHTS), student)
    if is_quantized(student):
        ours("scales").make_narrow(student)
    return student


def distil(
    section: DistilSection,
    *,
    name: str,
    tokens: Tokens,
    student: Path | None,
    teacher: Path,
    predictions: Path | None = None,
    machine: Machine,
    scratch: Path,
    events: Path,
) -> FinishedRun[Job]:
    """Train a student to predict what its teacher does, or finish that.

    Args:
        section: the run.
        name: the stage's, for messages.
        tokens: what both read.
        student: the model that is trained, if the section names no network.
        teacher: the model that is imitated.
        predictions: what it predicts, if the section has that stored.
        machine: what it runs on.
        scratch: a folder for the resumable states of runs.
        events: a folder for the event files that the machine asks for.

    Raises:
        RecipeError: the section can't work with the student or its teacher.
        StageError: a corpus is smaller than a batch, the tokens aren't those of both models, the predictions aren't
            those of this run, ranks of an earlier launch
            are alive, it takes more memory than there is, a package of the machine's events is missing, or a rank
            failed.
    """
    refuse_missing(machine.events, name)
    known = cards.read(teacher if student is None else student, ModelCard)
    artifacts.open_artifact(teacher, "model")
    if student is not None:
        artifacts.open_artifact(student, "model")
        _refuse_other_tokens(teacher, student)
    check_tokenizer(teacher if student is None else student, known, tokens)
    taught = cards.read(teacher, ModelCard)
    # Again, since of a model from elsewhere this may only be known now.
    found = [
        *objective_findings(known.objective, taught.objective),
        *length_findings(known.objective, taught.network),
    ]
    if found:
        raise RecipeError([Violation(f"{name}.{path}", f"the model {why}") for path, why in found])
    files, length = tokens.open("train"), known.objective.sequence_length
    refuse_small_corpora(files, tokens.open("heldout"), length, section.training.global_batch_size, name)
    training = section.training.settled(files.num_windows(length))
    device = set_up(machine)
    check_precision(training.precision, device)
    network = known.network if section.network is None else section.network
    job = Job(
        section=evolve(section, training=training),
        network=network,
        objective=known.objective,
        machine=evolve(machine, device=device.type),
        name=name,
        modules=tuple(sorted({*modules_of(section), *modules_of(network), *modules_of(known.objective)})),
        tokens=tuple(map(str, tokens.directories.values())),
        shares=tokens.shares,
        student=None if student is None else str(student),
        teacher=str(teacher),
        predictions=None if predictions is None else str(predictions),
        vocab_size=known.vocab_size,
        end_of_text_id=known.end_of_text_id,
        keep_zeros=student is not None and known.sparse,
        state="",
        events=str(events),
    )
    broken = checks.section_violations(job, name)
    if broken:
        # As in the section, which a user knows.
        raise RecipeError([Violation(each.path.replace(".section.", "."), each.reason) for each in broken])
    if section.teacher_logits is not None and predictions is not None:
        needed = predicting.card_of(
            teacher,
            tokens,
            top_k=section.teacher_logits.top_k,
            seed=training.seed,
            sequences=job.num_steps * training.global_batch_size,
            validation_sequences=training.validation_sequences,
        )
        predicting.check(predictions, evolve(needed, objective=known.objective))
    # Again, now that all is known of both models and of the machine, whatever was planned.
    here, its = evolve(machine, memory_gb=None), cards.read(teacher, ModelCard).network
    too_large = memory.refusal(
        network,
        known.objective,
        training,
        section.parallelism,
        known.vocab_size,
        here,
        teacher=its,
        is_stored=predictions is not None,
    )
    if too_large is not None:
        raise StageError(f"{name}: {too_large.reason}")
    inputs = [*tokens.directories.values(), teacher, *(path for path in (student, predictions) if path is not None)]
    decides = {"section": codec.unstructure(section), "shares": list(tokens.shares)}
    state = state_of(scratch, inputs, decides)
    epochs = job.num_steps * training.global_batch_size / files.num_windows(length)
    log.info("%s steps of %s tokens, %.2f epochs", f"{job.num_steps:,}", f"{job.tokens_per_step:,}", epochs)
    return finish(job, worker.__name__, state)


def _refuse_other_tokens(teacher: Path, student: Path) -> None:
    """Refuse a teacher whose tokens are others than the student's; what else their tokenizers say may differ."""
    cards_of_both = [cards.read(model, ModelCard) for model in (teacher, student)]
    if cards_of_both[0].tokenizer == cards_of_both[1].tokenizer:
        return
    its, mine = (folders.load_tokenizer(model).get_vocab() for model in (teacher, student))
    if its != mine:
        differing = sorted({token for token, _ in its.items() ^ mine.items()})
        raise StageError(
            f"{teacher}: the teacher knows {len(its):,} tokens and the student in {student} {len(mine):,}, and "
            f"{len(differing):,} differ, such as {differing[0]!r}; what the one predicts means nothing to the other"
        )
