"""Rules that cross the fields of an objective and the tokenizer whose tokens it needs."""

import re

from llmrecipe.recipe.model import Encoder, Llama
from llmrecipe.recipe.objective import CausalLM, MaskedLM, MultiMaskLM, Spans
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.tokenizer import ByteLevelBPE, Unigram, WordPiece

_PARTS = ("prefix", "middle", "suffix")

_TOKENS_OF_PARTS = tuple(f"objective.fill_in_the_middle.{part}_token" for part in _PARTS)

_SHORTEST_REARRANGED = 6
"""Tokens of a sequence that has room for one token of each part and the one before it."""

_OWN_OF_UNIGRAM = re.compile(r"<unk>|<0x[0-9A-F]{2}>")

rules = Rules()


@rules.add("objective", "model")
def _objective_of_model(recipe: Recipe) -> Findings:
    objective, model, given = recipe.objective, recipe.model, type(recipe.objective).__name__
    if isinstance(objective, CausalLM) and isinstance(model, Encoder):
        yield (
            "objective",
            f"{given} predicts a token from those before it, and {type(model).__name__} reads those after it as well; "
            "use MaskedLM or MultiMaskLM, or model = Llama(…)",
        )
    elif isinstance(objective, MaskedLM | MultiMaskLM) and isinstance(model, Llama):
        yield (
            "objective",
            f"{given} predicts a token from those on both sides, and Llama reads only those before it; use CausalLM, "
            "or model = Bert(…) or ModernBert(…)",
        )


@rules.add("objective", "tokenizer")
def _mask_token(recipe: Recipe) -> Findings:
    objective, tokenizer = recipe.objective, recipe.tokenizer
    if isinstance(objective, MaskedLM | MultiMaskLM) and isinstance(tokenizer, ByteLevelBPE | Unigram):
        yield (
            "tokenizer",
            f"{type(tokenizer).__name__} has no mask token, which {type(objective).__name__} puts in the place of "
            f"others; use WordPiece(vocab_size={tokenizer.vocab_size}), or a PretrainedTokenizer that has one",
        )


@rules.add("tokenizer.special_tokens", "tokenizer.end_of_text", "tokenizer.vocab_size")
def _special_tokens(recipe: Recipe) -> Findings:
    tokenizer = recipe.tokenizer
    for index, token in enumerate(tokenizer.special_tokens):
        reason = _taken(token, tokenizer)
        if reason or not token:
            yield (
                f"tokenizer.special_tokens[{index}]",
                f"{reason or 'must not be empty'}; use a text that no document holds, such as '<|fim_prefix|>'",
            )
    least = _smallest(tokenizer, len(tokenizer.special_tokens))
    if tokenizer.vocab_size < least:
        yield (
            "tokenizer.vocab_size",
            f"{tokenizer.vocab_size} leaves no room for {len(tokenizer.special_tokens)} special_tokens beside what "
            f"every {type(tokenizer).__name__} has; use at least {least}",
        )


def _smallest(tokenizer: ByteLevelBPE | Unigram, num_special_tokens: int) -> int:
    """Tokens of the smallest vocabulary with as many special ones."""
    return (257 if isinstance(tokenizer, ByteLevelBPE) else 300) + num_special_tokens


def _taken(token: str, tokenizer: ByteLevelBPE | Unigram) -> str | None:
    """What else a token stands for, if anything."""
    if token == tokenizer.end_of_text:
        return f"{token!r} is the tokenizer's end_of_text"
    if isinstance(tokenizer, Unigram) and _OWN_OF_UNIGRAM.fullmatch(token):
        return f"{token!r} is one of the tokens that every Unigram has"
    if len(token) == 1:
        return f"{token!r} is a character, of which texts are made"
    return None


@rules.add(*_TOKENS_OF_PARTS)
def _tokens_of_parts(recipe: Recipe) -> Findings:
    tokens = recipe.objective.fill_in_the_middle.tokens
    for number, (path, part) in enumerate(zip(_TOKENS_OF_PARTS, _PARTS, strict=True)):
        if tokens[number] in tokens[:number]:
            other = _PARTS[tokens.index(tokens[number])]
            yield path, f"{tokens[number]!r} is the {other}_token already; use another, such as '<|fim_{part}|>'"


@rules.add(*_TOKENS_OF_PARTS, "objective.sequence_length")
def _length_of_parts(recipe: Recipe) -> Findings:
    length = recipe.objective.sequence_length
    if length < _SHORTEST_REARRANGED:
        yield (
            "objective.sequence_length",
            f"{length} has no room for the three parts of fill_in_the_middle with a token before each; use at least "
            f"{_SHORTEST_REARRANGED}",
        )


@rules.add(*_TOKENS_OF_PARTS, "tokenizer")
def _special_tokens_of_parts(recipe: Recipe) -> Findings:
    tokens, tokenizer = recipe.objective.fill_in_the_middle.tokens, recipe.tokenizer
    if isinstance(tokenizer, ByteLevelBPE | Unigram):
        for path, part, token in zip(_TOKENS_OF_PARTS, _PARTS, tokens, strict=True):
            if reason := _taken(token, tokenizer):
                yield path, f"{reason}; use another, such as '<|fim_{part}|>'"
        known = tokenizer.special_tokens
        missing = [token for token in tokens if token not in known and not _taken(token, tokenizer)]
        if missing:
            wanted = tuple(dict.fromkeys((*known, *missing)))
            least = _smallest(tokenizer, len(wanted))
            larger = f", and vocab_size = {least}" if tokenizer.vocab_size < least else ""
            yield (
                "tokenizer.special_tokens",
                f"lacks {', '.join(map(repr, missing))}, which objective.fill_in_the_middle puts before the parts of a "
                f"document; use {wanted!r}{larger}",
            )
    elif isinstance(tokenizer, WordPiece):
        size = max(tokenizer.vocab_size, 257 + len(tokens))
        yield (
            "tokenizer",
            "WordPiece has no tokens for objective.fill_in_the_middle to put before the parts of a document; use "
            f"ByteLevelBPE(vocab_size={size}, special_tokens={tokens!r})",
        )


@rules.add("objective.masking", "objective.sequence_length")
def _span_length(recipe: Recipe) -> Findings:
    objective = recipe.objective
    longest = objective.sequence_length - 1
    if isinstance(objective.masking, Spans) and objective.masking.max_length > longest:
        yield (
            "objective.masking.max_length",
            f"{objective.masking.max_length} is longer than a sequence of sequence_length = "
            f"{objective.sequence_length} without its first token, which no span holds; use at most {longest}",
        )


@rules.add("objective.mask_share", "objective.random_share")
def _replaced_shares(recipe: Recipe) -> Findings:
    mask, random = recipe.objective.mask_share, recipe.objective.random_share
    # A millionth more is nothing that a proposal with six digits could avoid.
    if mask + random > 1 + 1e-6:
        yield (
            "objective.random_share",
            f"{random:g} with mask_share = {mask:g} is more than all of the tokens that are to be predicted; use at "
            f"most {1 - mask:g}",
        )
    elif mask + random == 0:
        yield (
            "objective.mask_share",
            "0 with random_share = 0 lets every token be read that is to be predicted; use 0.8",
        )
