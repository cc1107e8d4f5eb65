"""Rules that cross the fields of a training: its network, its objective and its layout."""

import math

from llmrecipe.recipe.model import Bert, Llama
from llmrecipe.recipe.optimizer import SGD, AdamW, WarmupStableDecay
from llmrecipe.recipe.proposals import choice, divisors, multiples_near
from llmrecipe.recipe.quantity import Phase
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Findings, Rules, seed_findings
from llmrecipe.recipe.tokenizer import TrainedTokenizer

rules = Rules()


@rules.add("model.hidden_size", "model.num_attention_heads")
def _head_width(recipe: Recipe) -> Findings:
    model = recipe.model
    # Rotary positions turn pairs of numbers.
    step, width = (1, "equal") if isinstance(model, Bert) else (2, "equal and even")
    if model.hidden_size % (step * model.num_attention_heads):
        yield (
            "model.hidden_size",
            f"{model.hidden_size} does not give num_attention_heads = {model.num_attention_heads} heads of an {width} "
            f"width; use {choice(multiples_near(model.hidden_size, step * model.num_attention_heads))}",
        )


@rules.add("model.num_key_value_heads", "model.num_attention_heads")
def _key_value_heads(recipe: Recipe) -> Findings:
    heads, key_value_heads = recipe.model.num_attention_heads, recipe.model.num_key_value_heads
    if heads % key_value_heads:
        counts = choice(divisors(heads, up_to=heads))
        yield (
            "model.num_key_value_heads",
            f"{key_value_heads} does not divide num_attention_heads = {heads}; use {counts}",
        )


@rules.add("parallelism.tensor", "model")
def _tensor_degree(recipe: Recipe) -> Findings:
    model, tensor = recipe.model, recipe.parallelism.tensor
    shared = {"num_attention_heads": model.num_attention_heads, "intermediate_size": model.feed_forward_size}
    if isinstance(model, Llama):
        shared["num_key_value_heads"] = model.num_key_value_heads
    for name, size in shared.items():
        if size % tensor:
            degrees = divisors(size, up_to=model.num_attention_heads)
            yield "parallelism.tensor", f"{tensor} does not divide {name} = {size}; use {choice(degrees)}"
    # The vocabulary's size is known only when the tokenizer is there, so the padding alone has to make it divisible.
    multiple = model.make_vocab_size_divisible_by
    if multiple % tensor and not model.num_attention_heads % tensor:
        yield (
            "model.make_vocab_size_divisible_by",
            f"{multiple} is not a multiple of tensor = {tensor}, so the ranks can't share the padded vocabulary "
            f"evenly; use {math.lcm(multiple, tensor)}",
        )


@rules.add("parallelism.async_tensor_parallel", "parallelism.tensor")
def _async_tensor_parallel(recipe: Recipe) -> Findings:
    if recipe.parallelism.async_tensor_parallel and recipe.parallelism.tensor == 1:
        yield (
            "parallelism.async_tensor_parallel",
            "True has nothing to overlap with tensor = 1, which exchanges nothing; use False, or tensor = 2",
        )


@rules.add("parallelism.pipeline", "model.num_layers")
def _pipeline_degree(recipe: Recipe) -> Findings:
    num_layers, pipeline = recipe.model.num_layers, recipe.parallelism.pipeline
    if pipeline > num_layers:
        yield (
            "parallelism.pipeline",
            f"{pipeline} ranks can't share num_layers = {num_layers}; use at most {num_layers}",
        )


@rules.add("parallelism.pipeline", "model", "tokenizer")
def _pipeline_shares(recipe: Recipe) -> Findings:
    model, pipeline = recipe.model, recipe.parallelism.pipeline
    if pipeline <= model.num_layers and isinstance(recipe.tokenizer, TrainedTokenizer):
        # nanotron (models/base.py, build_model) gives a rank blocks until its share of the work is passed. The output
        # layer comes last: unless the layers pass the shares of all ranks but one, the last rank gets no weights.
        layer = model.layer_cost
        output = model.padded_vocab_size(recipe.tokenizer.vocab_size) * model.hidden_size
        if layer * model.num_layers <= output * (pipeline - 1):
            yield (
                "parallelism.pipeline",
                f"{pipeline} ranks are given about equal work, and the output layer for vocab_size = "
                f"{recipe.tokenizer.vocab_size} takes so much of it that num_layers = {model.num_layers} leave a rank "
                f"without weights; use {(layer * model.num_layers - 1) // output + 1}, or num_layers = "
                f"{output * (pipeline - 1) // layer + 1}",
            )


@rules.add("objective.sequence_length", "parallelism", "model.max_position_embeddings")
def _sequence_length(recipe: Recipe) -> Findings:
    length, longest = recipe.objective.sequence_length, recipe.model.max_position_embeddings
    parallelism = recipe.parallelism
    step = parallelism.tensor if parallelism.tensor_parallel_mode == "reduce_scatter" else 1
    if length > longest:
        yield (
            "objective.sequence_length",
            f"{length} exceeds the model's max_position_embeddings = {longest}; use at most {longest // step * step}, "
            f"or a model with max_position_embeddings = {length}",
        )
    if length % step:
        yield (
            "objective.sequence_length",
            f"{length} is not a multiple of tensor = {step}, over which 'reduce_scatter' spreads the tokens of a "
            f"sequence; use {choice(multiples_near(min(length, longest), step, longest))}",
        )


@rules.add("training.global_batch_size", "parallelism")
def _global_batch(recipe: Recipe) -> Findings:
    size, parallelism = recipe.training.global_batch_size, recipe.parallelism
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
def _steps(recipe: Recipe) -> Findings:
    length, training, schedule = recipe.objective.sequence_length, recipe.training, recipe.training.schedule
    steps, warmup = training.num_steps(length), training.warmup_steps(length)
    if steps < 1:
        yield "training.duration", "Steps(0) trains nothing; use at least Steps(1)"
    elif warmup >= steps:
        yield (
            "training.schedule.warmup",
            f"{_length(schedule.warmup, warmup)}, and the whole training is {steps}; use at most Steps({steps - 1})",
        )
    elif isinstance(schedule, WarmupStableDecay):
        decay = training.phase_steps(schedule.decay, length)
        reason = f"{_length(schedule.decay, decay)}, "
        if decay < 1:
            reason += "which never reaches `final`; use at least Steps(1), or Constant in place of WarmupStableDecay"
            yield "training.schedule.decay", reason
        elif warmup + decay > steps:
            reason += f"after a warm-up of {warmup}, and the whole training is {steps}"
            yield "training.schedule.decay", f"{reason}; use at most Steps({steps - warmup}), or a shorter warm-up"


def _length(phase: Phase, steps: int) -> str:
    return f"this {type(phase).__name__} is {steps} steps"


@rules.add("training.optimizer")
def _optimizer(recipe: Recipe) -> Findings:
    optimizer = recipe.training.optimizer
    if isinstance(optimizer, SGD) and optimizer.nesterov and optimizer.momentum == 0:
        yield "training.optimizer.nesterov", "looks ahead along a momentum of 0; use momentum = 0.9 or nesterov = False"
    if isinstance(optimizer, AdamW):
        for name in ("beta1", "beta2"):
            if getattr(optimizer, name) == 1:
                yield f"training.optimizer.{name}", "1 would never let a gradient in; use a value below 1, such as 0.95"


@rules.add("training.seed")
def _trainingseed_findings(recipe: Recipe) -> Findings:
    yield from seed_findings("training.seed", recipe.training.seed)
