"""Rules that cross the fields of a recipe: what the engines would only say once they run, said before anything does."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from llmrecipe.errors import Violation
from llmrecipe.recipe.augmentation import (
    PLACEHOLDER,
    Augmenter,
    BackTranslate,
    Band,
    Paraphrase,
    TokenNoise,
)
from llmrecipe.recipe.cleaning import CHANGING, Cleaner, GopherQuality, LengthFilter, UrlBlocklist
from llmrecipe.recipe.compression import W4A16, Scheme
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.deduplication import SPLITTING, Decontaminate, ExactDedup, MinHashDedup
from llmrecipe.recipe.evaluation import Perplexity, Samples
from llmrecipe.recipe.optimizer import SGD, AdamW, WarmupStableDecay
from llmrecipe.recipe.proposals import choice, divisors, largest_group, multiples_near
from llmrecipe.recipe.quantity import Phase
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.schema import field_violations
from llmrecipe.recipe.source import WarcFiles
from llmrecipe.recipe.tokenizer import TrainedTokenizer

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What DVC and every file system take. A section is `{name}-{kind}`; no kind holds a `-`, so that no two collide."""

LARGEST_SEED = 2**32 - 1
"""NumPy's limit."""

_SMALLEST_SHARE = 500
"""A part of a mixture is at least one sequence in so many: `engines.sample_order` deals them out by the thousand."""

Findings = Iterator[tuple[str, str]]
"""Paths below the recipe, with what is wrong there."""


Rules = list[tuple[tuple[str, ...], Callable[[Any], Findings]]]
"""What a rule reads, and the rule."""

_rules: Rules = []

_corpus_rules: Rules = []
"""Those for each corpus of a recipe."""


def violations(recipe: Recipe) -> list[Violation]:
    """Everything that is wrong with `recipe`: fields first, then the rules whose fields are right."""
    root = recipe.name if isinstance(recipe.name, str) and recipe.name else "recipe"
    found = list(field_violations(recipe, root))
    wrong = [violation.path.removeprefix(f"{root}.") for violation in found]
    found.extend(_broken_rules(_rules, recipe, root, wrong))
    if not {"corpus", "corpus.parts"} & set(wrong):
        for path, corpus in recipe.corpora():
            within = [name.removeprefix(f"{path}.") for name in wrong if _is_within(name, path)]
            if not any(_is_within(path, name) for name in wrong):
                found.extend(_broken_rules(_corpus_rules, corpus, f"{root}.{path}", within))
    return found


def section_violations(section: object, path: str) -> list[Violation]:
    """What is wrong with a section of `params.yaml`, whose fields are right, by the rules that need no more than it.

    A section holds parts of a recipe or a corpus under their own names, so that rules take the one for the other.
    """
    return list(_broken_rules(_rules + _corpus_rules, section, path, wrong=()))


def _broken_rules(rules: Rules, whole: object, root: str, wrong: Sequence[str]) -> Iterator[Violation]:
    """What the rules say of which `whole` has all that they need, and nothing of it in the fields that are `wrong`."""
    for needs, find in rules:
        is_there = all(hasattr(whole, need.partition(".")[0]) for need in needs)
        if is_there and not any(_is_within(path, need) or _is_within(need, path) for path in wrong for need in needs):
            yield from (Violation(f"{root}.{path}", reason) for path, reason in find(whole))


def _is_within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith((f"{outer}.", f"{outer}["))


def _rule(*needs: str, of: Rules = _rules):
    def register(find: Callable[[Any], Findings]) -> Callable[[Any], Findings]:
        of.append((needs, find))
        return find

    return register


@_rule("name", of=_corpus_rules)
@_rule("name")
def _name(named: Recipe | Corpus) -> Findings:
    name = named.name
    if not NAME.fullmatch(name):
        better = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")
        proposal = f"; use {better!r}" if better else ""
        yield (
            "name",
            f"{name!r} must start with a letter or digit and go on with letters, digits, `_` and `-`{proposal}",
        )


@_rule("heldout_fraction", of=_corpus_rules)
def _heldout(corpus: Corpus) -> Findings:
    if corpus.heldout_fraction == 0:
        yield (
            "heldout_fraction",
            "0 leaves no text to measure the training and the models on; use a little, such as 0.02",
        )


@_rule("corpus")
def _mixture(recipe: Recipe) -> Findings:
    parts = recipe.corpus.parts
    names, total = [part.corpus.name for part in parts], sum(part.weight for part in parts)
    for index, part in enumerate(parts):
        if names.index(part.corpus.name) < index:
            reason = f"the mixture has {part.corpus.name!r} twice; keep one, with the sum of their weights"
            yield f"corpus.parts[{index}].corpus", reason
        if part.weight * _SMALLEST_SHARE < total:
            yield (
                f"corpus.parts[{index}].weight",
                f"{part.weight:g} of {total:g} is less than 1 in {_SMALLEST_SHARE} sequences, a share that 1,000 "
                f"sequences in a row can't keep; use {math.ceil(1e4 * total / _SMALLEST_SHARE) / 1e4:g} or more",
            )


@_rule("clean", of=_corpus_rules)
def _cleaners(corpus: Corpus) -> Findings:
    for index, cleaner in enumerate(corpus.clean):
        for path, reason in _cleaner(cleaner):
            yield f"clean[{index}].{path}", reason


def _cleaner(cleaner: Cleaner) -> Findings:
    """What is wrong with a cleaner alone; paths below it."""
    match cleaner:
        case GopherQuality():
            yield from _bounds(cleaner, "min_words", "max_words")
            yield from _bounds(cleaner, "min_mean_word_length", "max_mean_word_length")
        case LengthFilter(min_characters=0, max_characters=None):
            yield "min_characters", "0, with max_characters = None, keeps every document; set one of them"
        case LengthFilter(max_characters=int()):
            yield from _bounds(cleaner, "min_characters", "max_characters")
        case UrlBlocklist(domains=(), words=(), fineweb_lists=False):
            yield "fineweb_lists", "False, with no domains and no words, blocks nothing; use True, or name some"
        case MinHashDedup() if _is_off(cleaner):
            more = itertools.count(cleaner.bands + 1)
            bands = next(bands for bands in more if not _is_off(attrs.evolve(cleaner, bands=bands)))
            reached = f"{cleaner.hashes_per_band} in each come closest, with {cleaner.reached_threshold:.2f}"
            yield (
                "threshold",
                f"{cleaner.threshold:g} can't be reached with bands = {cleaner.bands}, whatever the number of hashes: "
                f"{reached}; use that, or bands = {bands}",
            )
        case Decontaminate(against=(), heldout=False):
            yield (
                "against",
                "(), with heldout = False, compares with nothing; name evaluation sets, or use heldout = True",
            )


def _is_off(cleaner: MinHashDedup) -> bool:
    return abs(cleaner.reached_threshold - cleaner.threshold) > 0.05


def _bounds(cleaner: Cleaner, least: str, most: str) -> Findings:
    low, high = getattr(cleaner, least), getattr(cleaner, most)
    if low > high:
        yield (
            least,
            f"{low:g} is more than {most} = {high:g}, so that every document would be dropped; use at most {high:g}",
        )


@_rule("source", "clean", of=_corpus_rules)
def _addresses(corpus: Corpus) -> Findings:
    if isinstance(corpus.source, WarcFiles) or getattr(corpus.source, "url_field", ""):
        return
    for index, cleaner in enumerate(corpus.clean):
        if isinstance(cleaner, UrlBlocklist):
            named = "set its url_field" if hasattr(corpus.source, "url_field") else "remove it"
            yield f"clean[{index}]", f"looks at addresses, and {corpus.source.tag} brings none; {named}"


@_rule("clean", of=_corpus_rules)
def _late_changes(corpus: Corpus) -> Findings:
    clean = corpus.clean
    for index, cleaner in enumerate(clean):
        split_by = next((other.tag for other in clean[:index] if isinstance(other, SPLITTING)), None)
        compared_again = any(isinstance(other, ExactDedup | MinHashDedup) for other in clean[index:])
        if isinstance(cleaner, CHANGING) and split_by and not compared_again:
            yield (
                f"clean[{index}]",
                f"{cleaner.tag} changes texts that were split before {split_by} and compared there, so that equal ones "
                "may come to stand in both splits; move it forward, or put ExactDedup() after it",
            )


@_rule("augment", of=_corpus_rules)
def _augmenters(corpus: Corpus) -> Findings:
    for index, augmenter in enumerate(corpus.augment):
        for path, reason in _augmenter(augmenter):
            yield f"augment[{index}].{path}", reason


def _augmenter(augmenter: Augmenter) -> Findings:
    yield from _seed("seed", augmenter.seed)
    for name in ("similarity", "length_ratio"):
        band = getattr(augmenter, name, None)
        if isinstance(band, Band) and band.least > band.most:
            reason = f"{band.least:g} is more than most = {band.most:g}, so that every text would be dropped"
            yield f"{name}.least", f"{reason}; use at most {band.most:g}"
    match augmenter:
        case BackTranslate() if augmenter.there == augmenter.back:
            yield "back", "is the model of `there`, and the way back needs one that translates into the other direction"
        case Paraphrase() if augmenter.prompt.count(PLACEHOLDER) != 1:
            count = augmenter.prompt.count(PLACEHOLDER)
            yield "prompt", f"holds {PLACEHOLDER} {count} times; write it once, where the text to paraphrase goes"
        case TokenNoise() if not augmenter.delete + augmenter.insert + augmenter.swap:
            yield "delete", "0 with insert = 0 and swap = 0 changes no word; use 0.05 in one of them"


@_rule("model.hidden_size", "model.num_attention_heads")
def _head_width(recipe: Recipe) -> Findings:
    model = recipe.model
    if model.hidden_size % (2 * model.num_attention_heads):
        yield (
            "model.hidden_size",
            f"{model.hidden_size} does not give num_attention_heads = {model.num_attention_heads} heads of an equal "
            f"and even width; use {choice(multiples_near(model.hidden_size, 2 * model.num_attention_heads))}",
        )


@_rule("model.num_key_value_heads", "model.num_attention_heads")
def _key_value_heads(recipe: Recipe) -> Findings:
    heads, key_value_heads = recipe.model.num_attention_heads, recipe.model.num_key_value_heads
    if heads % key_value_heads:
        counts = choice(divisors(heads, up_to=heads))
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


@_rule("parallelism.async_tensor_parallel", "parallelism.tensor")
def _async_tensor_parallel(recipe: Recipe) -> Findings:
    if recipe.parallelism.async_tensor_parallel and recipe.parallelism.tensor == 1:
        yield (
            "parallelism.async_tensor_parallel",
            "True has nothing to overlap with tensor = 1, which exchanges nothing; use False, or tensor = 2",
        )


@_rule("parallelism.pipeline", "model.num_layers")
def _pipeline_degree(recipe: Recipe) -> Findings:
    num_layers, pipeline = recipe.model.num_layers, recipe.parallelism.pipeline
    if pipeline > num_layers:
        yield (
            "parallelism.pipeline",
            f"{pipeline} ranks can't share num_layers = {num_layers}; use at most {num_layers}",
        )


@_rule("parallelism.pipeline", "model", "tokenizer")
def _pipeline_shares(recipe: Recipe) -> Findings:
    model, pipeline = recipe.model, recipe.parallelism.pipeline
    if pipeline <= model.num_layers and isinstance(recipe.tokenizer, TrainedTokenizer):
        # nanotron (models/base.py, build_model) gives a rank blocks until its share of the work is passed. The output
        # layer comes last: unless the layers pass the shares of all ranks but one, the last rank gets no weights.
        layer = 4 * model.num_attention_heads * model.head_dim * model.hidden_size
        layer += 3 * model.feed_forward_size * model.hidden_size
        output = model.padded_vocab_size(recipe.tokenizer.vocab_size) * model.hidden_size
        if layer * model.num_layers <= output * (pipeline - 1):
            yield (
                "parallelism.pipeline",
                f"{pipeline} ranks are given about equal work, and the output layer for vocab_size = "
                f"{recipe.tokenizer.vocab_size} takes so much of it that num_layers = {model.num_layers} leave a rank "
                f"without weights; use {(layer * model.num_layers - 1) // output + 1}, or num_layers = "
                f"{output * (pipeline - 1) // layer + 1}",
            )


@_rule("objective.sequence_length", "parallelism", "model.max_position_embeddings")
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


@_rule("training.global_batch_size", "parallelism")
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


@_rule("training.duration", "training.global_batch_size", "training.schedule", "objective.sequence_length")
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
    for index, step in enumerate(recipe.compression):
        for path, reason in scheme_findings(step.scheme, model.hidden_size, model.feed_forward_size):
            yield f"compression[{index}].scheme.{path}", reason


def scheme_findings(scheme: Scheme, hidden_size: int, intermediate_size: int) -> Findings:
    """What a quantization scheme can't do with a model of these widths; paths below the scheme."""
    layers_of_width = {
        f"hidden_size = {hidden_size} (q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj)": hidden_size,
        f"intermediate_size = {intermediate_size} (down_proj)": intermediate_size,
    }
    common = math.gcd(*layers_of_width.values())
    if isinstance(scheme, W4A16) and common % scheme.group_size:
        size = scheme.group_size
        undivided = [text for text, width in layers_of_width.items() if width % size]
        yield (
            "group_size",
            f"W4A16's group of {size} does not divide {' and '.join(undivided)}; use {largest_group(size, common)}",
        )


@_rule("evaluation", "compression", "objective.sequence_length")
def _evaluation(recipe: Recipe) -> Findings:
    length = recipe.objective.sequence_length
    perplexities = [index for index, measure in enumerate(recipe.evaluation) if isinstance(measure, Perplexity)]
    if recipe.compression and not perplexities:
        reason = "holds no Perplexity, which says how much of the model the compression keeps; add Perplexity()"
        yield "evaluation", reason
    for index in perplexities[1:]:
        yield f"evaluation[{index}]", "a second Perplexity; keep one"
    for index, measure in enumerate(recipe.evaluation):
        if isinstance(measure, Perplexity) and measure.max_tokens < length:
            reason = (
                f"{measure.max_tokens} is less than one sequence of sequence_length = {length}; use at least {length}"
            )
            yield f"evaluation[{index}].max_tokens", reason
        if isinstance(measure, Samples) and "" in measure.prompts:
            where = f"evaluation[{index}].prompts[{measure.prompts.index('')}]"
            yield where, "an empty prompt gives the model nothing to continue; write a beginning, such as 'def '"


@_rule("evaluation", "objective.sequence_length", "corpus")
def _evaluation_of_mixture(recipe: Recipe) -> Findings:
    length, weights = recipe.objective.sequence_length, [part.weight for part in recipe.corpus.parts]
    least = length * math.ceil(sum(weights) / min(weights))
    for index, measure in enumerate(recipe.evaluation):
        if isinstance(measure, Perplexity) and length <= measure.max_tokens < least:
            yield (
                f"evaluation[{index}].max_tokens",
                f"{measure.max_tokens} leaves the smallest part of the mixture less than one sequence of "
                f"sequence_length = {length}; use at least {least}",
            )
