"""Rules that cross the fields of a recipe: what the engines would only say once they run, said before anything does."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from llmrecipe.errors import Violation
from llmrecipe.recipe.compression import W4A16
from llmrecipe.recipe.evaluation import Perplexity, Samples
from llmrecipe.recipe.model import Llama
from llmrecipe.recipe.optimizer import SGD, AdamW
from llmrecipe.recipe.quantity import Steps
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.schema import field_violations
from llmrecipe.recipe.tokenizer import ByteLevelBPE

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What DVC and every file system take. A section is `{name}-{kind}`; no kind holds a `-`, so that no two collide."""

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""

Findings = Iterator[tuple[str, str]]
"""Paths below the recipe, with what is wrong there."""


_rules: list[tuple[tuple[str, ...], Callable[[Recipe], Findings]]] = []
"""What a rule reads, and the rule."""


def violations(recipe: Recipe) -> list[Violation]:
    """Everything that is wrong with `recipe`: fields first, then the rules whose fields are right."""
    root = recipe.name if isinstance(recipe.name, str) and recipe.name else "recipe"
    found = list(field_violations(recipe, root))
    broken = [violation.path.removeprefix(f"{root}.") for violation in found]
    for needs, find in _rules:
        if not any(_is_within(path, need) or _is_within(need, path) for path in broken for need in needs):
            found.extend(Violation(f"{root}.{path}", reason) for path, reason in find(recipe))
    return found


def _is_within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def _rule(*needs: str):
    def register(find: Callable[[Recipe], Findings]) -> Callable[[Recipe], Findings]:
        _rules.append((needs, find))
        return find

    return register


@_rule("name")
def _recipe_name(recipe: Recipe) -> Findings:
    yield from _name("name", recipe.name)


@_rule("corpus.name")
def _corpus_name(recipe: Recipe) -> Findings:
    yield from _name("corpus.name", recipe.corpus.name)


def _name(path: str, name: str) -> Findings:
    if not NAME.fullmatch(name):
        better = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")
        proposal = f"; use {better!r}" if better else ""
        yield path, f"{name!r} must start with a letter or digit and go on with letters, digits, `_` and `-`{proposal}"


@_rule("corpus.heldout_fraction")
def _heldout(recipe: Recipe) -> Findings:
    if recipe.corpus.heldout_fraction == 0:
        yield (
            "corpus.heldout_fraction",
            "0 leaves no text to measure the training and the models on; use a little, such as 0.02",
        )


@_rule("model.hidden_size", "model.num_attention_heads")
def _head_width(recipe: Recipe) -> Findings:
    model = recipe.model
    if model.hidden_size % (2 * model.num_attention_heads):
        yield (
            "model.hidden_size",
            f"{model.hidden_size} does not give num_attention_heads = {model.num_attention_heads} heads of an equal "
            f"and even width; use {_multiples_near(model.hidden_size, 2 * model.num_attention_heads)}",
        )


@_rule("model.num_key_value_heads", "model.num_attention_heads")
def _key_value_heads(recipe: Recipe) -> Findings:
    heads, key_value_heads = recipe.model.num_attention_heads, recipe.model.num_key_value_heads
    if heads % key_value_heads:
        counts = _choice(_divisors(heads, up_to=heads))
        yield (
            "model.num_key_value_heads",
            f"{key_value_heads} does not divide num_attention_heads = {heads}; use {counts}",
        )


@_rule("parallelism.tensor", "model")
def _tensor_degree(recipe: Recipe) -> Findings:
    model, tensor = recipe.model, recipe.parallelism.tensor
    shared = {
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "intermediate_size": model.feed_forward_size,
    }
    for name, size in shared.items():
        if size % tensor:
            degrees = _divisors(size, up_to=model.num_attention_heads)
            yield "parallelism.tensor", f"{tensor} does not divide {name} = {size}; use {_choice(degrees)}"


@_rule("parallelism.tensor", "model.make_vocab_size_divisible_by")
def _vocabulary(recipe: Recipe) -> Findings:
    # The vocabulary's size is known only when the tokenizer is there, so the padding alone has to make it divisible.
    multiple, tensor = recipe.model.make_vocab_size_divisible_by, recipe.parallelism.tensor
    if multiple % tensor:
        yield (
            "model.make_vocab_size_divisible_by",
            f"{multiple} is not a multiple of tensor = {tensor}, so the ranks can't share the padded vocabulary "
            f"evenly; use {math.lcm(multiple, tensor)}",
        )


@_rule("parallelism.pipeline", "model", "tokenizer")
def _pipeline_degree(recipe: Recipe) -> Findings:
    model, pipeline = recipe.model, recipe.parallelism.pipeline
    if pipeline > model.num_layers:
        yield (
            "parallelism.pipeline",
            f"{pipeline} ranks can't share num_layers = {model.num_layers}; use at most {model.num_layers}",
        )
    elif isinstance(recipe.tokenizer, ByteLevelBPE):
        vocab_size = recipe.tokenizer.vocab_size
        if not _fills_pipeline(model, vocab_size, pipeline):
            degree = max(degree for degree in range(1, pipeline) if _fills_pipeline(model, vocab_size, degree))
            yield (
                "parallelism.pipeline",
                f"{pipeline} ranks are given about equal work, and the output layer for vocab_size = {vocab_size} "
                f"takes so much of it that num_layers = {model.num_layers} leave a rank without weights; use {degree}",
            )


def _fills_pipeline(model: Llama, vocab_size: int, pipeline: int) -> bool:
    # As nanotron shares out the blocks (models/base.py, build_model): a rank takes them until its share of the work
    # is passed. Embedding and norms count as no work; the output layer is the last block that has weights.
    layer = 4 * model.num_attention_heads * model.head_dim * model.hidden_size
    layer += 3 * model.feed_forward_size * model.hidden_size
    total = layer * model.num_layers + model.padded_vocab_size(vocab_size) * model.hidden_size
    rank = 0
    for work in accumulate([0, *[layer] * model.num_layers, 0]):
        rank += work > total * ((rank + 1) / pipeline)
    return rank == pipeline - 1


@_rule("objective.sequence_length", "parallelism", "model.max_position_embeddings")
def _sequence_parallelism(recipe: Recipe) -> Findings:
    length, parallelism = recipe.objective.sequence_length, recipe.parallelism
    longest = recipe.model.max_position_embeddings
    if parallelism.tensor_parallel_mode == "reduce_scatter" and length % parallelism.tensor:
        yield (
            "objective.sequence_length",
            f"{length} is not a multiple of tensor = {parallelism.tensor}, over which 'reduce_scatter' spreads the "
            f"tokens of a sequence; use {_multiples_near(length, parallelism.tensor, longest)}",
        )


@_rule("objective.sequence_length", "model.max_position_embeddings")
def _sequence_length(recipe: Recipe) -> Findings:
    length, longest = recipe.objective.sequence_length, recipe.model.max_position_embeddings
    if length > longest:
        yield (
            "objective.sequence_length",
            f"{length} exceeds the model's max_position_embeddings = {longest}; use at most {longest}, or a model "
            f"with max_position_embeddings = {length}",
        )


@_rule("training.global_batch_size", "parallelism")
def _global_batch(recipe: Recipe) -> Findings:
    size, parallelism = recipe.training.global_batch_size, recipe.parallelism
    at_once = parallelism.data * parallelism.micro_batch_size
    if size % at_once:
        yield (
            "training.global_batch_size",
            f"{size} is not a multiple of data × micro_batch_size = {parallelism.data} × "
            f"{parallelism.micro_batch_size} = {at_once}; use {_multiples_near(size, at_once)}",
        )
    elif parallelism.pipeline_schedule == "1f1b" and size // at_once < parallelism.pipeline - 1:
        least = at_once * (parallelism.pipeline - 1)
        yield (
            "parallelism.pipeline_schedule",
            f"'1f1b' fills pipeline = {parallelism.pipeline} ranks with at least {parallelism.pipeline - 1} "
            f"micro-batches a step, and global_batch_size = {size} gives {size // at_once}; use 'afab', or "
            f"global_batch_size = {least}",
        )


@_rule("training.duration", "training.global_batch_size", "training.schedule", "objective.sequence_length")
def _steps(recipe: Recipe) -> Findings:
    length, training = recipe.objective.sequence_length, recipe.training
    steps, warmup = training.num_steps(length), training.warmup_steps(length)
    if steps < 1:
        yield "training.duration", "Steps(0) trains nothing; use at least Steps(1)"
    elif warmup >= steps:
        given = "Steps" if isinstance(training.schedule.warmup, Steps) else "Fraction"
        yield (
            "training.schedule.warmup",
            f"this {given} is {warmup} steps, and the whole training is {steps}; use at most Steps({steps - 1})",
        )


@_rule("training.optimizer")
def _optimizer(recipe: Recipe) -> Findings:
    optimizer = recipe.training.optimizer
    if isinstance(optimizer, SGD) and optimizer.nesterov and optimizer.momentum == 0:
        yield "training.optimizer.nesterov", "looks ahead along a momentum of 0; use momentum = 0.9 or nesterov = False"
    if isinstance(optimizer, AdamW):
        for name in ("beta1", "beta2"):
            if getattr(optimizer, name) == 1:
                yield f"training.optimizer.{name}", "1 would never let a gradient in; use a value below 1, such as 0.95"


@_rule("training.seed")
def _training_seed(recipe: Recipe) -> Findings:
    yield from _seed("training.seed", recipe.training.seed)


@_rule("compression")
def _compression(recipe: Recipe) -> Findings:
    for index, step in enumerate(recipe.compression):
        if index > 0:
            yield f"compression[{index}]", "a model is quantized once; keep one Quantize"
        yield from _seed(f"compression[{index}].seed", step.seed)


def _seed(path: str, seed: int) -> Findings:
    if seed > LARGEST_SEED:
        yield path, f"{seed} is more than a 32-bit seed holds; use at most {LARGEST_SEED}"


@_rule("compression", "model")
def _group_size(recipe: Recipe) -> Findings:
    model = recipe.model
    layers_of_width = {
        f"hidden_size = {model.hidden_size} (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj)": model.hidden_size,
        f"intermediate_size = {model.feed_forward_size} (down_proj)": model.feed_forward_size,
    }
    common = math.gcd(*layers_of_width.values())
    for index, step in enumerate(recipe.compression):
        if isinstance(step.scheme, W4A16) and common % step.scheme.group_size:
            size = step.scheme.group_size
            undivided = [text for text, width in layers_of_width.items() if width % size]
            yield (
                f"compression[{index}].scheme.group_size",
                f"W4A16's group of {size} does not divide {' and '.join(undivided)}; use {_best_group(size, common)}",
            )


def _best_group(size: int, common: int) -> int:
    """The largest power of two up to `size` that divides `common`: the sizes that inference kernels have."""
    return math.gcd(common, 1 << (size.bit_length() - 1))


@_rule("evaluation", "compression")
def _evaluation(recipe: Recipe) -> Findings:
    if recipe.compression and not any(isinstance(measure, Perplexity) for measure in recipe.evaluation):
        yield (
            "evaluation",
            "holds no Perplexity, which says how much of the model the compression keeps; add Perplexity()",
        )
    for kind in (Perplexity, Samples):
        again = [index for index, measure in enumerate(recipe.evaluation) if isinstance(measure, kind)][1:]
        for index in again:
            yield f"evaluation[{index}]", f"a second {kind.__name__}; keep one"
    for index, measure in enumerate(recipe.evaluation):
        if isinstance(measure, Samples) and "" in measure.prompts:
            where = f"evaluation[{index}].prompts[{measure.prompts.index('')}]"
            yield where, "an empty prompt gives the model nothing to continue; write a beginning, such as 'def '"


def _divisors(number: int, up_to: int) -> list[int]:
    return [divisor for divisor in range(1, up_to + 1) if number % divisor == 0]


def _multiples_near(number: int, step: int, up_to: float = math.inf) -> str:
    below = number // step * step
    return _choice([below + step] if below == 0 else [below] if below + step > up_to else [below, below + step])


def _choice(numbers: Sequence[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
