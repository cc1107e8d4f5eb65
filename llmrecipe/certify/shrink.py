"""A run made small enough to be done several times in minutes, with all that could make it inexact."""

import math

import attrs

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Objective, Schedule
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.masking import Spans
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.quantity import Epochs, Fraction, Steps
from llmrecipe.recipe.schema import matches
from llmrecipe.recipe.tokenizer import ByteLevelBPE, TrainedTokenizer, WordPiece
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.training_checks import FLOAT8_STEP

SMALLEST_VOCAB = 260
"""Tokens of the smallest: every byte, the end of a text, and the three that `FillInTheMiddle` needs."""

LARGEST_VOCAB = 4096
"""Tokens of the largest vocabulary that a small model is given: more would be most of its weights."""

GLOBAL_BATCH_SIZE = 8
"""Two micro-batches of two sequences for each of two replicas."""

SEQUENCE_LENGTH = 64
"""Tokens of a sequence, unless the model's are shorter."""

_WIDTH = 64
_HEAD_DIM = 24
"""Of heads that have a width of their own: no share of `_WIDTH`."""

_CHECKPOINTS = 4
_MANY = 1000
_SEQUENCES_OF_VALIDATION = 6


def shrink(model: Trained, *, steps: int, vocab_size: int) -> Trained:
    """`model` as a run of `steps` steps of a network with about 64 hidden units, on at most 8 ranks.

    Kept are the optimizer, the shape of the schedule, the number format, every other choice of the training, the kinds
    of parallelism, of the objective all but lengths, and of the network all but its sizes: its ratio of query to key
    and value heads, heads of a width of their own, windows shorter than a sequence, its tied embeddings and the base
    and scaling of its positions included. It is valid if `model` is. A run that starts from another model's weights
    becomes one that starts from the first weights of its network.

    Args:
        model: a valid one.
        steps: at least 2.
        vocab_size: tokens of the vocabulary it will read, `SMALLEST_VOCAB` to `LARGEST_VOCAB`.
    """
    length = model.objective.sequence_length
    # An even length, which two ranks can share.
    small_length = min(length, SEQUENCE_LENGTH) // 2 * 2
    return evolve(
        model,
        start=_network(model.network, vocab_size, small_length, is_float8=model.training.precision == "float8"),
        tokenizer=_tokenizer(model.objective, vocab_size),
        objective=_objective(model.objective, small_length),
        training=_training(model.training, length, steps),
        parallelism=_parallelism(model.parallelism),
    )


def shrunk_machine(machine: Machine, steps: int) -> Machine:
    """`machine` with a few checkpoints in a run of `steps` steps."""
    interval = _interval(steps)
    return evolve(machine, checkpoint_interval=interval, log_interval=interval, events=())


def _interval(steps: int) -> int:
    return max(1, steps // _CHECKPOINTS)


def _tokenizer(objective: Objective, vocab_size: int) -> TrainedTokenizer:
    if objective.is_masked:
        return WordPiece(vocab_size=vocab_size)
    return ByteLevelBPE(vocab_size=vocab_size, special_tokens=objective.special_tokens)


def _objective(objective: Objective, length: int) -> Objective:
    masking = getattr(objective, "masking", None)
    if isinstance(masking, Spans):
        masking = evolve(masking, max_length=min(masking.max_length, length - 1))
        return evolve(objective, sequence_length=length, masking=masking)
    return evolve(objective, sequence_length=length)


def _network(network: Network, vocab_size: int, sequence_length: int, *, is_float8: bool) -> Network:
    heads = network.num_attention_heads
    key_value_heads = network.shared_by_tensor_ranks.get("num_key_value_heads", heads)
    ratio = heads // key_value_heads
    # Where they can, two tensor-parallel ranks have two query heads each.
    key_value_heads = 4 if ratio == 1 and key_value_heads >= 4 else min(key_value_heads, 2)
    heads = key_value_heads * ratio
    # Heads of such a width can be multiplied in float8, however many ranks share them.
    step = FLOAT8_STEP if is_float8 else 2
    hidden_size = heads * max(step, _WIDTH // heads // step * step)
    feed_forward_step = 2 * FLOAT8_STEP if is_float8 else 16
    widening = min(max(network.feed_forward_size / network.hidden_size, 1), 8)
    sizes: dict[str, int | None] = {
        "hidden_size": hidden_size,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "intermediate_size": math.ceil(hidden_size * widening / feed_forward_step) * feed_forward_step,
        "make_vocab_size_divisible_by": 64,
    }
    if network.reads_both_sides:
        sizes["max_position_embeddings"] = min(network.max_position_embeddings, SEQUENCE_LENGTH)
    # A quarter of a sequence leaves most tokens more than they read.
    limits = {"head_dim": _HEAD_DIM, "sliding_window": sequence_length // 4, "local_attention": sequence_length // 4}
    for name, limit in limits.items():
        size = getattr(network, name, None)
        sizes[name] = None if size is None else min(size, max(limit, 2))
    if is_float8 and sizes["head_dim"] is not None:
        sizes["head_dim"] = 2 * _HEAD_DIM
    fields = attrs.fields_dict(type(network))
    small = evolve(network, **{name: size for name, size in sizes.items() if name in fields})
    # Two pipeline ranks both get weights only if the layers outweigh the output layer (`training_checks`).
    output_cost = small.padded_vocab_size(vocab_size) * hidden_size
    return evolve(small, num_layers=max(2, output_cost // small.layer_cost + 1))


def _training(training: Training, sequence_length: int, steps: int) -> Training:
    return evolve(
        training,
        duration=Steps(steps),
        global_batch_size=GLOBAL_BATCH_SIZE,
        schedule=_schedule(training.schedule, _num_steps(training, sequence_length), steps),
        validation_interval=_interval(steps),
        keep_every=None,
        validation_sequences=min(training.validation_sequences, _SEQUENCES_OF_VALIDATION),
    )


def _num_steps(training: Training, sequence_length: int) -> int:
    # How many steps epochs are isn't known here; of so many a part in steps is a small share.
    return _MANY if isinstance(training.duration, Epochs) else training.num_steps(sequence_length)


def _schedule(schedule: Schedule, total: int, steps: int) -> Schedule:
    """The schedule of `total` steps over `steps`: each part keeps its share, and at least a step if it had one."""
    left, parts = steps, dict[str, Steps]()
    # In the order in which they are declared, the warm-up first; a part is what can be given in steps.
    for field in attrs.fields(type(schedule)):
        if matches(Steps(0), field.type):
            part = getattr(schedule, field.name)
            share = part.of_total if isinstance(part, Fraction) else part.count / total
            length = min(max(round(share * steps), 1 if share else 0), left if parts else steps - 1)
            parts[field.name] = Steps(length)
            left -= length
    return evolve(schedule, **parts)


def _parallelism(parallelism: Parallelism) -> Parallelism:
    return evolve(
        parallelism,
        **{name: min(getattr(parallelism, name), 2) for name in ("data", "tensor", "pipeline", "micro_batch_size")},
    )
