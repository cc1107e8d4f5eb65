"""What is wrong with a recipe: what the engines would only say once they run, said before anything does."""

import math
import re

from llmrecipe.errors import Violation
from llmrecipe.recipe import corpus_checks, objective_checks, training_checks
from llmrecipe.recipe.compression import W4A16, W8A8, W8A16, Scheme
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.evaluation import Perplexity, PseudoPerplexity, Samples
from llmrecipe.recipe.objective import CausalLM
from llmrecipe.recipe.proposals import largest_group
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Findings, Rules, is_within, seed_findings
from llmrecipe.recipe.schema import field_violations

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What DVC and every file system take. A section is `{name}-{kind}`; no kind holds a `-`, so that no two collide."""

_SMALLEST_SHARE = 500
"""A part of a mixture is at least one sequence in so many: `engines.tokens.order` deals them out by the thousand."""

_LAYERS = {
    "llama": ("q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj", "down_proj"),
    "bert": ("query, key, value, attention.output, intermediate, transform", "output"),
}
"""By architecture, the layers that read the residual stream's width, and those that read the feed-forward layer's."""

rules = Rules()


def violations(recipe: Recipe) -> list[Violation]:
    """Everything that is wrong with `recipe`: fields first, then the rules whose fields are right."""
    root = recipe.name if isinstance(recipe.name, str) and recipe.name else "recipe"
    found = list(field_violations(recipe, root))
    wrong = [violation.path.removeprefix(f"{root}.") for violation in found]
    for book in (rules, objective_checks.rules, training_checks.rules):
        found.extend(book.broken(recipe, root, wrong))
    if not {"corpus", "corpus.parts"} & set(wrong):
        for path, corpus in recipe.corpora():
            within = [name.removeprefix(f"{path}.") for name in wrong if is_within(name, path)]
            if not any(is_within(path, name) for name in wrong):
                found.extend(corpus_checks.rules.broken(corpus, f"{root}.{path}", within))
    return found


def section_violations(section: object, path: str) -> list[Violation]:
    """What is wrong with a section of `params.yaml`, whose fields are right, by the rules that need no more than it."""
    books = (rules, objective_checks.rules, training_checks.rules, corpus_checks.rules)
    return [violation for book in books for violation in book.broken(section, path)]


@corpus_checks.rules.add("name")
@rules.add("name")
def _name(named: Recipe | Corpus) -> Findings:
    name = named.name
    if not NAME.fullmatch(name):
        better = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")
        proposal = f"; use {better!r}" if better else ""
        yield (
            "name",
            f"{name!r} must start with a letter or digit and go on with letters, digits, `_` and `-`{proposal}",
        )


@rules.add("corpus")
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


@rules.add("compression")
def _compression(recipe: Recipe) -> Findings:
    for index, step in enumerate(recipe.compression):
        if index > 0:
            yield f"compression[{index}]", "a model is quantized once; keep one Quantize"
        yield from seed_findings(f"compression[{index}].seed", step.seed)


@rules.add("compression", "model")
def _scheme(recipe: Recipe) -> Findings:
    model = recipe.model
    for index, step in enumerate(recipe.compression):
        for path, reason in scheme_findings(step.scheme, model.tag, model.hidden_size, model.feed_forward_size):
            yield f"compression[{index}].{path}", reason


def scheme_findings(scheme: Scheme, architecture: str, hidden_size: int, intermediate_size: int) -> Findings:
    """What a quantization `scheme` can't do with a model of this `tag` and these widths; paths begin with it."""
    if architecture == "bert" and isinstance(scheme, W8A8):
        yield (
            "scheme",
            "W8A8 evens out activations in the norm before a layer, and Bert's norms stand behind the additions, "
            "which read them too; use W8A16 or FP8",
        )
    elif architecture == "modernbert" and isinstance(scheme, W8A8):
        yield (
            "scheme",
            "W8A8 evens out activations in the norm before a layer, and ModernBert's first layer has none of its own; "
            "use FP8",
        )
    elif architecture == "modernbert" and isinstance(scheme, W4A16 | W8A16):
        yield (
            "scheme",
            f"{type(scheme).__name__} packs weights, and transformers can't load a packed ModernBert; use FP8",
        )
    elif isinstance(scheme, W4A16):
        yield from _group_findings(scheme.group_size, architecture, hidden_size, intermediate_size)


def _group_findings(size: int, architecture: str, hidden_size: int, intermediate_size: int) -> Findings:
    of_hidden_size, of_intermediate_size = _LAYERS[architecture]
    layers_of_width = {
        f"hidden_size = {hidden_size} ({of_hidden_size})": hidden_size,
        f"intermediate_size = {intermediate_size} ({of_intermediate_size})": intermediate_size,
    }
    common = math.gcd(*layers_of_width.values())
    if common % size:
        undivided = [text for text, width in layers_of_width.items() if width % size]
        yield (
            "scheme.group_size",
            f"W4A16's group of {size} does not divide {' and '.join(undivided)}; use {largest_group(size, common)}",
        )


@rules.add("evaluation", "compression", "objective.sequence_length")
def _evaluation(recipe: Recipe) -> Findings:
    length = recipe.objective.sequence_length
    if recipe.compression and not any(isinstance(measure, Perplexity) for measure in recipe.evaluation):
        reason = "holds no Perplexity, which says how much of the model the compression keeps; add Perplexity()"
        yield "evaluation", reason
    for kind in (Perplexity, PseudoPerplexity):
        several = [index for index, measure in enumerate(recipe.evaluation) if isinstance(measure, kind)]
        for index in several[1:]:
            yield f"evaluation[{index}]", f"a second {kind.__name__}; keep one"
    for index, measure in enumerate(recipe.evaluation):
        if isinstance(measure, Perplexity | PseudoPerplexity) and measure.max_tokens < length:
            reason = (
                f"{measure.max_tokens} is less than one sequence of sequence_length = {length}; use at least {length}"
            )
            yield f"evaluation[{index}].max_tokens", reason
        if isinstance(measure, Samples) and "" in measure.prompts:
            where = f"evaluation[{index}].prompts[{measure.prompts.index('')}]"
            yield where, "an empty prompt gives the model nothing to continue; write a beginning, such as 'def '"


@rules.add("evaluation", "objective")
def _measures(recipe: Recipe) -> Findings:
    objective, is_causal = type(recipe.objective).__name__, isinstance(recipe.objective, CausalLM)
    for index, measure in enumerate(recipe.evaluation):
        if isinstance(measure, Samples) and not is_causal:
            yield f"evaluation[{index}]", f"Samples continues a text, which {objective} doesn't learn; remove it"
        if isinstance(measure, PseudoPerplexity) and is_causal:
            reason = f"PseudoPerplexity masks single tokens, which {objective} doesn't learn to predict; use Perplexity"
            yield f"evaluation[{index}]", reason


@rules.add("evaluation", "objective.sequence_length", "corpus")
def _evaluation_of_mixture(recipe: Recipe) -> Findings:
    length, weights = recipe.objective.sequence_length, [part.weight for part in recipe.corpus.parts]
    least = length * math.ceil(sum(weights) / min(weights))
    for index, measure in enumerate(recipe.evaluation):
        if isinstance(measure, Perplexity | PseudoPerplexity) and length <= measure.max_tokens < least:
            yield (
                f"evaluation[{index}].max_tokens",
                f"{measure.max_tokens} leaves the smallest part of the mixture less than one sequence of "
                f"sequence_length = {length}; use at least {least}",
            )
