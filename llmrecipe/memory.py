"""Whether a training run can fit its machine: the least that weights, gradients, optimizer and a micro-batch hold."""

from pathlib import Path

from llmrecipe import hardware
from llmrecipe.errors import Violation
from llmrecipe.machines import Machines
from llmrecipe.pretrained.rows import rows_for
from llmrecipe.recipe import checks, names
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.fine_tuned import FineTuned
from llmrecipe.recipe.fine_tuning import FineTuning
from llmrecipe.recipe.kinds import Model, Objective
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields
from llmrecipe.recipe.training import Training
from llmrecipe.sections import DistilSection, FineTuneSection, TrainSection


def rank_bytes(network: Network, training: Training, parallelism: Parallelism, vocab_size: int) -> int:
    """Bytes of weights that a rank holds, with what belongs to them, as the mean over the ranks of a replica.

    Args:
        network: what is trained.
        training: which of its weights learn, by which optimizer, in which precision.
        parallelism: how they are cut.
        vocab_size: tokens; 0 if that isn't known yet.
    """
    rows = network.padded_vocab_size(vocab_size)
    weights = network.num_parameters(rows)
    learned = weights if training.parameters == "all" else rows * network.hidden_size
    is_wide = training.number_format == "float32"
    # In bfloat16 there are also float32 copies of the weights and of the gradients, into which micro-batches add up.
    gradients, optimized = (4, 0) if is_wide else (2 + 4, 4)
    optimized += 4 * training.optimizer.states_per_weight
    sharing = parallelism.data if parallelism.zero_stage else 1
    whole = weights * (4 if is_wide else 2) + learned * gradients
    held = _shared(whole, parallelism) + learned * optimized // sharing
    return held // (parallelism.tensor * parallelism.pipeline)


def _shared(size: int, parallelism: Parallelism) -> int:
    """What a rank has of so many bytes of weights or gradients, but for a layer at a time that is whole."""
    return size // parallelism.data if parallelism.shares_weights else size


def sequence_bytes(network: Network, objective: Objective, training: Training, parallelism: Parallelism) -> int:
    """Bytes that a rank keeps of a sequence for the backward pass at the least, as the mean over those of a replica.

    These are the input of each layer, which is kept also by `recompute_activations`, and the gradient of what the
    output layer reads, which it finds with the loss of an objective that predicts every token. Of the logits there is
    only a piece, however many sequences there are.
    """
    layers = network.num_layers if training.parameters == "all" else 0
    # Tensor-parallel ranks hold equal inputs of layers unless they spread those, and each the whole of that gradient.
    states = layers * parallelism.tensor // parallelism.sequence_step
    states += 0 if objective.is_masked else parallelism.tensor
    width = 4 if training.number_format == "float32" else 2
    each = states * network.hidden_size * width
    return objective.sequence_length * each // (parallelism.tensor * parallelism.pipeline)


def refusal(
    network: Network,
    objective: Objective,
    training: Training,
    parallelism: Parallelism,
    vocab_size: int,
    machine: Machine,
    *,
    teacher: Network | None = None,
    is_stored: bool = False,
) -> Violation | None:
    """Why a run can't fit the machine, or this one where that names no memory; None if it may fit, or nobody knows.

    A student has a `teacher` beside it on each rank, in float32, and the logits of both, unless what that predicts
    `is_stored`. While they load, each rank has both whole in the machine's memory, also if it will share them; that
    isn't counted.

    Returns:
        The field of the model that asks for too much, and the reason.
    """
    is_on_gpus = machine.device == "cuda" or (machine.device == "auto" and hardware.num_gpus() > 0)
    here = hardware.gpu_memory() if is_on_gpus else hardware.memory()
    has = here if machine.memory_gb is None else round(machine.memory_gb * 1e9)
    logit = 4 if training.number_format == "float32" else 2
    where = "this machine" if machine.memory_gb is None else "the machine that it is planned for"
    count = 1 if is_on_gpus else parallelism.world_size
    if teacher is not None:
        # Whatever it computes in, a student's weights are float32, and so is what its layers hand on.
        training = evolve(training, precision="float32")
    needs = rank_bytes(network, training, parallelism, vocab_size) * count
    if teacher is not None and not is_stored:
        its = 4 * teacher.num_parameters(teacher.padded_vocab_size(vocab_size))
        needs += _shared(its, parallelism) * count
    if has is None:
        return None
    if needs <= has:
        sequence = sequence_bytes(network, objective, training, parallelism) * count
        # Its logits with their gradient, and the teacher's; of masked tokens alone, so all are there only once.
        logits = 0 if teacher is None else 1 if objective.is_masked else 2 if is_stored else 3
        sequence += logits * logit * vocab_size * objective.sequence_length * count
        return _batch_refusal(objective, parallelism, sequence, needs, has, where)
    weights = network.num_parameters(network.padded_vocab_size(vocab_size))
    layout = f"data × tensor × pipeline = {parallelism.data} × {parallelism.tensor} × {parallelism.pipeline} ranks"
    states = "gradients and the optimizer's states" + ("" if teacher is None else " and its teacher")
    held = f"its {weights:,} weights take with their {states} {_gb(needs)}"
    each = "a GPU of " if is_on_gpus else ""
    is_taught = teacher is not None
    savings = _savings(parallelism, is_on_gpus=is_on_gpus, is_taught=is_taught)
    reason = (
        f"{held} {'on each GPU ' if is_on_gpus else ''}in {training.precision} on {layout}, and {each}{where} has "
        f"{_gb(has)}; use a smaller network or vocabulary, {savings}or "
        f"plan it for a larger machine by `--machine`: one with memory_gb = {-(-needs // 10**9)}"
    )
    return Violation("student" if is_taught else "start", reason)


def fine_tuning_refusal(
    network: Network, training: FineTuning, parallelism: Parallelism, machine: Machine, rows: int = 0
) -> str | None:
    """Why a fine-tuning can't fit the machine, or this one where that names no memory; None if it may fit.

    Weights, gradients, the optimizer's states and the running mean are float32 whatever it computes in; of the best
    step the first rank has the weights in the machine's memory as well. With an adapter all but the weights are of that
    alone; of a new head nothing is counted.
    """
    is_on_gpus = machine.device == "cuda" or (machine.device == "auto" and hardware.num_gpus() > 0)
    here = hardware.gpu_memory() if is_on_gpus else hardware.memory()
    has = here if machine.memory_gb is None else round(machine.memory_gb * 1e9)
    weights = network.num_parameters(network.padded_vocab_size(rows))
    small = training.adapter.num_parameters(network) if training.adapter else 0
    learned = small if training.adapter else weights
    copies = 1 + training.optimizer.states_per_weight + (training.average_decay is not None)
    needs = _shared(4 * (weights + small + learned * copies), parallelism)
    needs *= 1 if is_on_gpus else parallelism.world_size
    needs += 0 if is_on_gpus or training.select == "last" else 4 * learned
    if has is None or needs <= has:
        return None
    where = "this machine" if machine.memory_gb is None else "the machine that it is planned for"
    held = f"an adapter of {small:,} beside them" if training.adapter else "them"
    return (
        f"its {weights:,} weights take with the gradients and the optimizer's states of {held} {_gb(needs)} "
        f"{'on each GPU ' if is_on_gpus else ''}on data = {parallelism.data} ranks, and {where} has {_gb(has)}; use a "
        f"smaller model, {'' if training.adapter else 'an adapter, '}zero_stage = 3 on more ranks, or plan it for a "
        f"larger machine by `--machine`: one with memory_gb = {-(-needs // 10**9)}"
    )


def _batch_refusal(
    objective: Objective, parallelism: Parallelism, sequence: int, needs: int, has: int, where: str
) -> Violation | None:
    """Why a micro-batch can't fit beside the weights, by the bytes of one sequence."""
    size, most = parallelism.micro_batch_size, (has - needs) // max(sequence, 1)
    if size * sequence <= has - needs:
        return None
    if most:
        path, instead = "parallelism.micro_batch_size", f"use at most {most:,}, or a shorter sequence_length"
    else:
        path, instead = "objective.sequence_length", "use shorter sequences"
    return Violation(
        path,
        f"a micro-batch of {size:,} × {objective.sequence_length:,} tokens takes at least {_gb(size * sequence)} "
        f"beside the {_gb(needs)} of the weights, their gradients and the optimizer's states, and {where} has "
        f"{_gb(has)}; {instead}",
    )


def too_large(recipe: Recipe, machines: Machines, root: Path) -> tuple[list[Violation], list[Violation]]:
    """The models that can't be trained in the memory of a machine: of one that is named, and of this one.

    `root` is the project's folder.
    """
    planned: list[Violation] = []
    here: list[Violation] = []
    fields = Fields()
    for path, word in names.words(recipe, checks.path_of(recipe)):
        facts = ("network", "objective", "training", "parallelism")
        if isinstance(word, FineTuned) and all(fields.has(word, fact) for fact in (*facts, "task")):
            machine = machines.find(f"{word.name}-{FineTuneSection.tag}", word.name) or Machine()
            refused = fine_tuning_refusal(word.network, word.training, word.parallelism, machine)
            if refused is not None:
                found = here if machine.memory_gb is None else planned
                found.append(Violation(f"{path}.start", refused))
            continue
        if not isinstance(word, Trained | Distilled) or not all(fields.has(word, fact) for fact in facts):
            continue
        teacher, tag, is_stored = None, TrainSection.tag, False
        if isinstance(word, Distilled):
            tag, is_stored = DistilSection.tag, word.teacher_logits is not None
            if not fields.has(word, "teacher.network"):
                continue
            teacher = word.teacher.network
        machine = machines.find(f"{word.name}-{tag}", word.name) or Machine()
        tokenizer = word.vocabulary.origin if fields.has(word, "vocabulary.origin") else None
        size = (None if tokenizer is None else rows_for(tokenizer, root)) or 0
        run = (word.network, word.objective, word.training, word.parallelism)
        reason = refusal(*run, size, machine, teacher=teacher, is_stored=is_stored)
        if reason is not None:
            found = here if machine.memory_gb is None else planned
            is_of_start = reason.path == "start" and isinstance(word, Trained) and isinstance(word.start, Model)
            found.append(Violation(path if is_of_start else f"{path}.{reason.path}", reason.reason))
    return planned, here


def _savings(parallelism: Parallelism, *, is_on_gpus: bool, is_taught: bool) -> str:
    """What would need less, of what isn't done yet."""
    savings = []
    if parallelism.data > 1 and parallelism.zero_stage == 0:
        savings.append("zero_stage = 3 unless student or teacher is quantized" if is_taught else "zero_stage = 1")
    if is_on_gpus and not is_taught:
        savings.append("a larger tensor or pipeline")
    elif parallelism.data > 1 and not is_on_gpus:
        savings.append("a smaller data")
    return "".join(f"{each}, " for each in savings)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
