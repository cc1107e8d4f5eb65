"""Rules that cross the fields of a tokenizer."""

from typing import Any

from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.schema import parts
from llmrecipe.recipe.tokenizer import PretrainedTokenizer

rules = Rules()


@rules.add("special_tokens", "vocab_size", "end_of_text")
def _special_tokens(tokenizer: Any) -> Findings:
    end_of_text = tokenizer.end_of_text
    if end_of_text and (meaning := tokenizer.meaning_of(end_of_text)):
        yield "end_of_text", _unfit(end_of_text, meaning, "<|endoftext|>")
    for index, token in enumerate(tokenizer.special_tokens):
        meaning = "is the tokenizer's end_of_text" if token == end_of_text else tokenizer.meaning_of(token)
        if meaning:
            yield f"special_tokens[{index}]", _unfit(token, meaning, "<|fim_prefix|>")
    least = tokenizer.fewest_tokens + len(tokenizer.special_tokens)
    if tokenizer.vocab_size < least:
        yield (
            "vocab_size",
            f"{tokenizer.vocab_size} leaves no room for {len(tokenizer.special_tokens)} special_tokens next to what "
            f"every {type(tokenizer).__name__} has; use at least {least}",
        )


def _unfit(token: str, meaning: str, example: str) -> str:
    reason = f"{token!r} {meaning}" if token else "must not be empty"
    return f"{reason}; use a name in brackets that no document holds, such as {example!r}"


@rules.add("path", "model")
def _from_one_place(tokenizer: PretrainedTokenizer) -> Findings:
    if tokenizer.path is None and tokenizer.model is None:
        yield "path", "is missing; name the tokenizer's folder, or give the model that it is taken from"
    elif tokenizer.path is not None and tokenizer.model is not None:
        yield "path", f"{tokenizer.path!r} is given, and a model as well; keep one of them"


def place_of_vocabulary(model: Model) -> str:
    """The path below `model` of the tokenizer whose tokens it reads."""
    if getattr(model, "tokenizer", None) is not None:
        return "tokenizer"
    above = next((place, item) for place, item in parts(model, "") if isinstance(item, Model))
    return f"{above[0].removeprefix('.')}.{place_of_vocabulary(above[1])}"
