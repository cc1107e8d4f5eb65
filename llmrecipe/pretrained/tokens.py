"""What a tokenizer's files say without loading it."""

import json
from pathlib import Path
from typing import Any

from llmrecipe.origins import LFS_POINTER
from llmrecipe.pretrained.contents import Damaged, Tokens
from llmrecipe.pretrained.safetensors import NOT_FETCHED

TOKENIZER = "tokenizer.json"

_ANY_TOKENIZER = (None, "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
"""Classes that know no token by themselves; others, such as `BertTokenizer`, have names for theirs."""


def tokens_of(folder: Path) -> Tokens | None:
    """The tokenizer in a folder; None if there is none.

    Raises:
        Damaged: its files can't be read.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    vocabulary = ids_by_token(read_mapping(folder / TOKENIZER))
    config, named = (
        read_mapping(folder / name) if (folder / name).is_file() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    if config.get("auto_map"):
        raise Damaged("tokenizer_config.json asks for code of its own (auto_map), which is never run")

    def has(role: str) -> bool:
        if role not in config and config.get("tokenizer_class") not in _ANY_TOKENIZER:
            return True
        token = config.get(role) or named.get(role)
        return (token.get("content") if isinstance(token, dict) else token) in vocabulary

    count = max(vocabulary.values()) + 1
    if count > len(vocabulary):
        reason = (
            f"{len(vocabulary):,} tokens with ids up to {count - 1:,}, and a model has a row of weights for each id"
        )
        raise Damaged(f"{TOKENIZER} has {reason}; ids must leave no gap")
    return Tokens(count, has("eos_token"), has("sep_token"))


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        Damaged: it doesn't.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} can't be read: {error.strerror or error}") from error
    if text.startswith(LFS_POINTER):
        raise Damaged(f"{path.name} {NOT_FETCHED}")
    try:
        found = json.loads(text.decode("utf-8"))
    # Of both, the text's encoding and its form; or nested too deep.
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} holds no mapping")
    return found


def ids_by_token(stored: dict[str, Any]) -> dict[str, int]:
    """Ids by token: the model's, and those that are added to it."""
    model, added = stored.get("model"), stored.get("added_tokens")
    known = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(known, list):
        # Of a Unigram: pairs of a token and its score, in the order of the ids.
        known = {str(pair[0]): index for index, pair in enumerate(known) if isinstance(pair, list) and pair}
    found = dict(known) if isinstance(known, dict) else {}
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict):
            found[str(token.get("content"))] = token.get("id")
    if not found or not all(type(index) is int for index in found.values()):
        raise Damaged(f"{TOKENIZER} has no vocabulary of tokens with ids; save it again with save_pretrained")
    return found
