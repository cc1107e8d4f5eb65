"""Rules that cross the fields of a run: its network, its objective, its training and its layout."""

import math
from typing import Any

from llmrecipe.recipe.kinds import Schedule
from llmrecipe.recipe.optimizer import SGD
from llmrecipe.recipe.proposals import choice, divisors, multiples_near
from llmrecipe.recipe.quantity import MOST_TOKENS, Epochs, Fraction, Phase
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.schedule import WarmupStableDecay
from llmrecipe.recipe.training import Training
from llmrecipe.recipe.validators import FLOAT32_MAX, in_float32

MOST_RANKS = 1024
"""More than any machine has GPUs or cores for."""

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""

FLOAT8_STEP = 16
"""GPUs multiply in float8 what is a multiple of this in each dimension."""

rules = Rules()


@rules.add("parallelism.tensor", "network")
def _tensor_degree(run: Any) -> Findings:
    network, tensor = run.network, run.parallelism.tensor
    for name, size in network.shared_by_tensor_ranks.items():
        if size % tensor:
            degrees = divisors(size, up_to=network.num_attention_heads)
            yield "parallelism.tensor", f"{tensor} does not divide {name} = {size}; use {choice(degrees)}"
    # The vocabulary's size is known only when the tokenizer is there, so the padding alone has to make it divisible.
    multiple = network.make_vocab_size_divisible_by
    if multiple % tensor and not network.num_attention_heads % tensor:
        yield (
            "network.make_vocab_size_divisible_by",
            f"{multiple} is not a multiple of tensor = {tensor}, so the ranks can't share the padded vocabulary "
            f"evenly; use {math.lcm(multiple, tensor)}",
        )


# Only a training has this field, be it a model or a stage's section.
@rules.add("resize_embeddings", "parallelism")
def _shared_weights(run: Any) -> Findings:
    if run.parallelism.zero_stage == 3:
        yield (
            "parallelism.zero_stage",
            "3, which shares weights among replicas, is for distillations; use tensor and pipeline, which share those "
            "of a replica, and zero_stage = 1",
        )


@rules.add("async_tensor_parallel", "tensor")
def _async_tensor_parallel(parallelism: Any) -> Findings:
    if parallelism.async_tensor_parallel and parallelism.tensor == 1:
        yield (
            "async_tensor_parallel",
            "True has nothing to overlap with tensor = 1, which exchanges nothing; use False, or tensor = 2",
        )


@rules.add("parallelism.pipeline", "network.num_layers")
def _pipeline_degree(run: Any) -> Findings:
    num_layers, pipeline = run.network.num_layers, run.parallelism.pipeline
    if pipeline > num_layers:
        yield (
            "parallelism.pipeline",
            f"{pipeline} ranks can't share num_layers = {num_layers}; use at most {num_layers}",
        )


@rules.add("parallelism.pipeline", "network", "vocabulary.origin.vocab_size")
def _pipeline_shares(run: Any) -> Findings:
    network, pipeline, vocab_size = run.network, run.parallelism.pipeline, run.vocabulary.origin.vocab_size
    if pipeline <= network.num_layers:
        # nanotron (models/base.py, build_model) gives a rank blocks until its share of the work is passed. The output
        # layer comes last: unless the layers pass the shares of all ranks but one, the last rank gets no weights.
        layer, output = network.layer_cost, network.padded_vocab_size(vocab_size) * network.hidden_size
        if layer * network.num_layers <= output * (pipeline - 1):
            yield (
                "parallelism.pipeline",
                f"{pipeline} ranks are given about equal work, and the output layer for vocab_size = {vocab_size} "
                f"takes so much of it that num_layers = {network.num_layers} leave a rank without weights; use "
                f"{(layer * network.num_layers - 1) // output + 1}, or num_layers = "
                f"{output * (pipeline - 1) // layer + 1}",
            )


@rules.add("objective.sequence_length", "parallelism", "network.max_position_embeddings")
def _sequence_length(run: Any) -> Findings:
    length, longest = run.objective.sequence_length, run.network.max_position_embeddings
    step = run.parallelism.sequence_step
    if length > longest:
        yield (
            "objective.sequence_length",
            f"{length} exceeds the network's max_position_embeddings = {longest}; use at most "
            f"{longest // step * step}, or a network with max_position_embeddings = {length}",
        )
    if length % step:
        fitting = multiples_near(min(length, longest), step, longest, run.objective.shortest_sequence)
        yield (
            "objective.sequence_length",
            f"{length} is not a multiple of tensor = {step}, over which 'reduce_scatter' spreads the tokens of a "
            f"sequence; use {choice(fitting)}",
        )


@rules.add("training.precision", "network", "parallelism")
def _float8_widths(run: Any) -> Findings:
    network, tensor = run.network, run.parallelism.tensor
    if run.training.precision != "float8":
        return
    shared = {what: (size, tensor) for what, size in network.shared_widths.items()}
    for what, (size, ranks) in {f"hidden_size = {network.hidden_size}": (network.hidden_size, 1), **shared}.items():
        step = FLOAT8_STEP * ranks
        if size % step and size % ranks == 0:
            each = f", {size // ranks} on each of tensor = {ranks} ranks," if ranks > 1 else ""
            yield (
                "training.precision",
                f"'float8' multiplies matrices whose sides are multiples of {FLOAT8_STEP}, and {what}{each} isn't; use "
                f"{choice(multiples_near(size, step))} there, or 'bfloat16'",
            )


@rules.add("training.precision", "objective.sequence_length", "network.max_position_embeddings")
def _float8_length(run: Any) -> Findings:
    length, longest = run.objective.sequence_length, run.network.max_position_embeddings
    if run.training.precision == "float8" and length % FLOAT8_STEP:
        fitting = multiples_near(min(length, longest), FLOAT8_STEP, longest, run.objective.shortest_sequence)
        yield (
            "objective.sequence_length",
            f"{length} is not a multiple of {FLOAT8_STEP}, and precision = 'float8' multiplies over the tokens of a "
            f"micro-batch, too; use {choice(fitting)}",
        )


@rules.add("training.precision", "parallelism.async_tensor_parallel")
def _float8_products(run: Any) -> Findings:
    if run.training.precision == "float8" and run.parallelism.async_tensor_parallel:
        yield (
            "parallelism.async_tensor_parallel",
            "True has its layers multiply piece by piece, as the others arrive, which float8 can't; use False, or "
            "precision = 'bfloat16'",
        )


@rules.add("training.global_batch_size", "parallelism")
def _global_batch(run: Any) -> Findings:
    size, parallelism = run.training.global_batch_size, run.parallelism
    at_once = parallelism.data * parallelism.micro_batch_size
    if size % at_once:
        yield (
            "training.global_batch_size",
            f"{size} is not a multiple of data × micro_batch_size = {parallelism.data} × "
            f"{parallelism.micro_batch_size} = {at_once}; use {choice(multiples_near(size, at_once))}",
        )
    elif parallelism.pipeline_schedule == "1f1b" and size // at_once < parallelism.pipeline - 1:
        least = at_once * (parallelism.pipeline - 1)
        yield (
            "parallelism.pipeline_schedule",
            f"'1f1b' fills pipeline = {parallelism.pipeline} ranks with at least {parallelism.pipeline - 1} "
            f"micro-batches a step, and global_batch_size = {size} gives {size // at_once}; use 'afab', or "
            f"global_batch_size = {least}",
        )


@rules.add("training.duration", "training.global_batch_size", "training.schedule", "objective.sequence_length")
def _steps(run: Any) -> Findings:
    length, training, schedule = run.objective.sequence_length, run.training, run.training.schedule
    if isinstance(training.duration, Epochs):
        # What is a number of steps is looked at once the text's tokens are there.
        yield from share_findings(schedule)
        return
    yield from phase_findings(training, length)


def phase_findings(training: Training, length: int) -> Findings:
    """What is wrong with the phases of a training whose steps are known, for sequences of this length."""
    schedule = training.schedule
    steps, warmup = training.num_steps(length), training.warmup_steps(length)
    if steps < 1:
        yield "training.duration", "Steps(0) trains nothing; use at least Steps(1)"
    elif warmup >= steps:
        yield (
            "training.schedule.warmup",
            f"{_length(schedule.warmup, warmup)}, and the whole run is {steps}; use at most Steps({steps - 1})",
        )
    elif isinstance(schedule, WarmupStableDecay):
        decay = training.phase_steps(schedule.decay, length)
        reason = f"{_length(schedule.decay, decay)}, "
        if decay < 1:
            reason += "which never reaches `final`; use at least Steps(1), or Constant in place of WarmupStableDecay"
            yield "training.schedule.decay", reason
        elif warmup + decay > steps:
            reason += f"after a warm-up of {warmup}, and the whole run is {steps}"
            yield "training.schedule.decay", f"{reason}; use at most Steps({steps - warmup}), or a shorter warm-up"


@rules.add("training.duration", "training.keep_every", "objective.sequence_length")
def _kept(run: Any) -> Findings:
    training, path = run.training, "training.keep_every"
    if training.keep_every is None:
        return
    if training.keep_every.count < 1:
        yield path, "Steps(0) is no distance between checkpoints; use at least Steps(1), or None"
    elif not isinstance(training.duration, Epochs):
        steps = training.num_steps(run.objective.sequence_length)
        if 0 < steps < training.keep_every.count:
            yield path, f"{training.keep_every}, and the whole run is {steps}; use at most Steps({steps}), or None"


def share_findings(schedule: Schedule) -> Findings:
    """What is wrong with a schedule whatever the length of the run."""
    parts = {name: getattr(schedule, name, None) for name in ("warmup", "decay")}
    shares = {name: part.of_total for name, part in parts.items() if isinstance(part, Fraction)}
    if shares.get("warmup") == 1:
        yield "training.schedule.warmup", "Fraction(1.0) is the whole run; use less, such as Fraction(0.01)"
    elif sum(shares.values()) > 1:
        warmup, decay = shares["warmup"], shares["decay"]
        reason = f"Fraction({decay}) of the run after a warm-up of Fraction({warmup}) is more than the run"
        yield "training.schedule.decay", f"{reason}; use at most Fraction({1 - warmup:g}), or a shorter warm-up"


def _length(phase: Phase, steps: int) -> str:
    return f"this {type(phase).__name__} is {steps} steps"


@rules.add("training.parameters", "network")
def _head_to_train(run: Any) -> Findings:
    network = run.network
    if run.training.parameters == "head" and getattr(network, "tie_word_embeddings", False):
        yield (
            "training.parameters",
            f"'head', and all of {type(network).__name__}'s head is its token embedding by tie_word_embeddings = True; "
            "use 'all'",
        )


@rules.add("nesterov", "momentum")
def _nesterov(optimizer: SGD) -> Findings:
    if optimizer.nesterov and optimizer.momentum == 0:
        yield "nesterov", "looks ahead along a momentum of 0; use momentum = 0.9 or nesterov = False"


@rules.add("beta1", "beta2")
def _betas(optimizer: Any) -> Findings:
    for name in ("beta1", "beta2"):
        value = getattr(optimizer, name)
        if in_float32(value) == 1:
            given = "1" if value == 1 else f"{value!r} is 1 in float32, and"
            yield name, f"{given} would never let a gradient in; use a value below 1, such as 0.95"


@rules.add("learning_rate", "weight_decay")
def _decay(optimizer: Any) -> Findings:
    if optimizer.learning_rate * optimizer.weight_decay > FLOAT32_MAX:
        yield (
            "weight_decay",
            f"{optimizer.weight_decay:g} times learning_rate = {optimizer.learning_rate:g} is more than float32 holds; "
            f"use at most {FLOAT32_MAX / optimizer.learning_rate:.3g}",
        )


@rules.add("data", "tensor", "pipeline")
def _ranks(parallelism: Any) -> Findings:
    if parallelism.world_size > MOST_RANKS:
        degrees = ("data", "tensor", "pipeline")
        largest = max(degrees, key=lambda degree: getattr(parallelism, degree))
        others = parallelism.world_size // getattr(parallelism, largest)
        most = MOST_RANKS // others
        yield (
            largest,
            f"data × tensor × pipeline = {parallelism.data} × {parallelism.tensor} × {parallelism.pipeline} = "
            f"{parallelism.world_size:,} ranks, and all are processes of one machine; use "
            + (f"at most {most}" if most else f"at most {MOST_RANKS:,} in all"),
        )


@rules.add("training.duration", "training.global_batch_size", "objective.sequence_length")
def _tokens(run: Any) -> Findings:
    training, length = run.training, run.objective.sequence_length
    batch = training.global_batch_size * length
    # Of a length in epochs the stage learns what it is.
    steps = 0 if isinstance(training.duration, Epochs) else training.num_steps(length)
    if batch > MOST_TOKENS:
        yield (
            "training.global_batch_size",
            f"{training.global_batch_size:,} sequences of {length:,} tokens are {batch:,} tokens a step, and a whole "
            f"run has at most {MOST_TOKENS:,}; use at most {MOST_TOKENS // length}",
        )
    elif (steps - 1) * batch >= MOST_TOKENS:
        yield (
            "training.duration",
            f"{steps:,} steps of {training.global_batch_size:,} sequences of {length:,} tokens are {steps * batch:,} "
            f"tokens, and a run has at most {MOST_TOKENS:,}; use at most Steps({MOST_TOKENS // batch})",
        )


@rules.add("seed")
def _seed(seeded: Any) -> Findings:
    if seeded.seed > LARGEST_SEED:
        yield "seed", f"{seeded.seed} is more than a 32-bit seed holds; use at most {LARGEST_SEED}"
