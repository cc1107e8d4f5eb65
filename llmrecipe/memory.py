"""Whether a training run can fit its machine: what its weights, their gradients and the optimizer hold at the least."""

from llmrecipe import hardware
from llmrecipe.errors import Violation
from llmrecipe.machines import Machines
from llmrecipe.recipe import checks, names
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields
from llmrecipe.recipe.tokenizer import TrainedTokenizer
from llmrecipe.recipe.training import Training
from llmrecipe.sections import TrainSection


def rank_bytes(network: Network, training: Training, parallelism: Parallelism, vocab_size: int) -> int:
    """Bytes that a rank holds at the least, as the mean over the ranks of a replica; activations come on top.

    Args:
        network: what is trained.
        training: which of its weights learn, by which optimizer, in which precision.
        parallelism: how they are cut.
        vocab_size: tokens; 0 if that isn't known yet.
    """
    rows = network.padded_vocab_size(vocab_size)
    weights = network.num_parameters(rows)
    learned = weights if training.parameters == "all" else rows * network.hidden_size
    is_wide = training.precision == "float32"
    # In bfloat16 there are also float32 copies of the weights and of the gradients, into which micro-batches add up.
    gradients, optimized = (4, 0) if is_wide else (2 + 4, 4)
    optimized += 4 * training.optimizer.states_per_weight
    sharing = parallelism.data if parallelism.zero_stage else 1
    held = weights * (4 if is_wide else 2) + learned * gradients + learned * optimized // sharing
    return held // (parallelism.tensor * parallelism.pipeline)


def refusal(
    network: Network, training: Training, parallelism: Parallelism, vocab_size: int, machine: Machine
) -> str | None:
    """Why a run can't fit the machine, or this one where that names no memory; None if it may fit, or nobody knows."""
    is_on_gpus = machine.device == "cuda" or (machine.device == "auto" and hardware.num_gpus() > 0)
    here = hardware.gpu_memory() if is_on_gpus else hardware.memory()
    has = here if machine.memory_gb is None else round(machine.memory_gb * 1e9)
    where = "this machine" if machine.memory_gb is None else "the machine that it is planned for"
    count = 1 if is_on_gpus else parallelism.world_size
    needs = rank_bytes(network, training, parallelism, vocab_size) * count
    if has is None or needs <= has:
        return None
    weights = network.num_parameters(network.padded_vocab_size(vocab_size))
    layout = f"data × tensor × pipeline = {parallelism.data} × {parallelism.tensor} × {parallelism.pipeline} ranks"
    held = f"its {weights:,} weights take with their gradients and the optimizer's states {_gb(needs)}"
    each = "a GPU of " if is_on_gpus else ""
    return (
        f"{held} {'on each GPU ' if is_on_gpus else ''}in {training.precision} on {layout}, and {each}{where} has "
        f"{_gb(has)}; use a smaller network or vocabulary, {_savings(parallelism, is_on_gpus=is_on_gpus)}or "
        f"plan it for a larger machine by `--machine`: one with memory_gb = {-(-needs // 10**9)}"
    )


def too_large(recipe: Recipe, machines: Machines) -> tuple[list[Violation], list[Violation]]:
    """The models that can't be trained in the memory of a machine: of one that is named, and of this one."""
    planned: list[Violation] = []
    here: list[Violation] = []
    fields = Fields()
    for path, word in names.words(recipe, checks.path_of(recipe)):
        facts = ("network", "training", "parallelism")
        if not isinstance(word, Trained) or not all(fields.has(word, fact) for fact in facts):
            continue
        machine = machines.find(f"{word.name}-{TrainSection.tag}", word.name) or Machine()
        tokenizer = word.vocabulary.origin if fields.has(word, "vocabulary.origin") else None
        size = tokenizer.vocab_size if isinstance(tokenizer, TrainedTokenizer) else 0
        reason = refusal(word.network, word.training, word.parallelism, size, machine)
        if reason is not None:
            found = here if machine.memory_gb is None else planned
            found.append(Violation(path if isinstance(word.start, Model) else f"{path}.start", reason))
    return planned, here


def _savings(parallelism: Parallelism, *, is_on_gpus: bool) -> str:
    """What would need less, of what isn't done yet."""
    savings = []
    if parallelism.data > 1 and parallelism.zero_stage == 0:
        savings.append("zero_stage = 1")
    if is_on_gpus:
        savings.append("a larger tensor or pipeline")
    elif parallelism.data > 1:
        savings.append("a smaller data")
    return "".join(f"{each}, " for each in savings)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
