"""Rules that cross the fields of a run: its network, its objective, its training and its layout."""

import math
from typing import Any

from llmrecipe.recipe.optimizer import SGD
from llmrecipe.recipe.proposals import choice, divisors, multiples_near
from llmrecipe.recipe.quantity import Phase
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.schedule import WarmupStableDecay

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""

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
        if getattr(optimizer, name) == 1:
            yield name, "1 would never let a gradient in; use a value below 1, such as 0.95"


@rules.add("seed")
def _seed(seeded: Any) -> Findings:
    if seeded.seed > LARGEST_SEED:
        yield "seed", f"{seeded.seed} is more than a 32-bit seed holds; use at most {LARGEST_SEED}"
