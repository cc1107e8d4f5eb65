"""Rules that cross the fields of an objective, and those of the network and the tokens that it needs."""

from typing import Any

from llmrecipe.recipe.kinds import Objective
from llmrecipe.recipe.masking import Spans
from llmrecipe.recipe.model import Trained
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.proposals import multiples_near
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.schema import members
from llmrecipe.recipe.tokenizer import ByteLevelBPE, TrainedTokenizer
from llmrecipe.recipe.tokenizer_checks import place_of_vocabulary

_PARTS = ("prefix", "middle", "suffix")

_OPTIONS = "objective.fill_in_the_middle"

_TOKENS_OF_PARTS = tuple(f"{_OPTIONS}.{part}_token" for part in _PARTS)

rules = Rules()


@rules.add("objective", "network", "parallelism")
def _objective_of_network(run: Any) -> Findings:
    objective, network = run.objective, run.network
    if objective.is_masked == network.reads_both_sides:
        return
    predicts, reads = (
        ("those on both sides", "only those before it")
        if objective.is_masked
        else ("those before it", "those after it as well")
    )
    objectives = [cls.__name__ for cls in members(Objective).values() if cls.is_masked == network.reads_both_sides]
    known = members(Network)
    networks = [cls.__name__ for cls in known.values() if cls.reads_both_sides == objective.is_masked]
    yield (
        "objective",
        f"{type(objective).__name__} predicts a token from {predicts}, and {type(network).__name__} reads {reads}; use "
        f"{' or '.join(objectives)}, or the network {' or '.join(networks)}",
    )


@rules.add("objective", "network", "vocabulary")
def _mask_token(model: Trained) -> Findings:
    tokenizer, learned = model.vocabulary.origin, type(model.objective).__name__
    if model.objective.is_masked and model.network.reads_both_sides and tokenizer.has_mask_token is False:
        size = f"(vocab_size={tokenizer.vocab_size})" if isinstance(tokenizer, TrainedTokenizer) else ""
        yield (
            place_of_vocabulary(model),
            f"{type(tokenizer).__name__} has no mask token, and {learned} needs one; use "
            f"WordPiece{size}, or a PretrainedTokenizer that has one",
        )


@rules.add(*_TOKENS_OF_PARTS)
def _tokens_of_parts(run: Any) -> Findings:
    tokens = run.objective.fill_in_the_middle.tokens
    for number, (path, part) in enumerate(zip(_TOKENS_OF_PARTS, _PARTS, strict=True)):
        if tokens[number] in tokens[:number]:
            other = _PARTS[tokens.index(tokens[number])]
            yield path, f"{tokens[number]!r} is the {other}_token already; use another, such as '<|fim_{part}|>'"


@rules.add(*_TOKENS_OF_PARTS, "objective.sequence_length", "parallelism")
def _length_of_parts(run: Any) -> Findings:
    length, shortest = run.objective.sequence_length, run.objective.shortest_sequence
    if length < shortest:
        yield (
            "objective.sequence_length",
            f"{length} has no room for the three parts of fill_in_the_middle with a token before each; use at least "
            f"{multiples_near(shortest, run.parallelism.sequence_step, down_to=shortest)[0]}",
        )


@rules.add(*_TOKENS_OF_PARTS, "vocabulary")
def _special_tokens_of_parts(model: Any) -> Findings:
    tokens, tokenizer, place = model.objective.fill_in_the_middle.tokens, model.vocabulary.origin, None
    if not isinstance(tokenizer, TrainedTokenizer):
        return
    place = place_of_vocabulary(model)
    if not hasattr(tokenizer, "special_tokens"):
        size = max(tokenizer.vocab_size, ByteLevelBPE.fewest_tokens + len(tokens))
        yield (
            place,
            f"{type(tokenizer).__name__} has no tokens for {_OPTIONS} to put before the parts of a document; use "
            f"ByteLevelBPE(vocab_size={size}, special_tokens={tokens!r})",
        )
        return
    taken = {token: meaning for token in tokens if (meaning := tokenizer.meaning_of(token))}
    end_of_text = getattr(tokenizer, "end_of_text", None)
    if end_of_text in tokens:
        taken[end_of_text] = "is the tokenizer's end_of_text"
    for path, part, token in zip(_TOKENS_OF_PARTS, _PARTS, tokens, strict=True):
        if token in taken:
            yield path, f"{token!r} {taken[token]}; use another, such as '<|fim_{part}|>'"
    known = tokenizer.special_tokens
    missing = [token for token in tokens if token not in known and token not in taken]
    if missing:
        wanted = tuple(dict.fromkeys((*known, *missing)))
        least = tokenizer.fewest_tokens + len(wanted)
        larger = f", and vocab_size = {least}" if tokenizer.vocab_size < least else ""
        yield (
            f"{place}.special_tokens",
            f"lacks {', '.join(map(repr, missing))}, which {_OPTIONS} puts before the parts of a document; use "
            f"{wanted!r}{larger}",
        )


@rules.add("masking.max_length", "sequence_length")
def _span_length(objective: Any) -> Findings:
    longest = objective.sequence_length - 1
    if isinstance(objective.masking, Spans) and objective.masking.max_length > longest:
        yield (
            "masking.max_length",
            f"{objective.masking.max_length} is longer than a sequence of sequence_length = "
            f"{objective.sequence_length} without its first token, which no span holds; use at most {longest}",
        )


@rules.add("mask_share", "random_share")
def _replaced_shares(objective: Any) -> Findings:
    mask, random = objective.mask_share, objective.random_share
    # A millionth more is nothing that a proposal with six digits could avoid.
    if mask + random > 1 + 1e-6:
        yield (
            "random_share",
            f"{random:g} with mask_share = {mask:g} is more than all of the tokens that are to be predicted; use at "
            f"most {1 - mask:g}",
        )
    elif mask + random == 0:
        yield (
            "mask_share",
            "0 with random_share = 0 lets every token be read that is to be predicted; use 0.8",
        )
