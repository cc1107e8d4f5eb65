"""What a tokenizer's files say without loading it."""

import json
from pathlib import Path
from typing import Any

from llmrecipe.pretrained.contents import Damaged, Tokens

_ENDS = ("eos_token", "sep_token")

_KNOWS_ITS_END = (None, "PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend")
"""Classes that name no token by themselves; others, such as `BertTokenizer`, do."""


def tokens_of(folder: Path) -> Tokens | None:
    """The tokenizer in a folder; None if there is none.

    Raises:
        Damaged: its files can't be read.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    stored = read_mapping(folder / "tokenizer.json")
    config = read_mapping(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    named = folder / "special_tokens_map.json"
    special = read_mapping(named) if named.is_file() else {}
    has_end = any(config.get(key) or special.get(key) for key in _ENDS)
    return Tokens(_count(stored), has_end or config.get("tokenizer_class") not in _KNOWS_ITS_END)


def _count(stored: dict[str, Any]) -> int:
    model, added = stored.get("model"), stored.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        ids = list(vocabulary.values())
    elif isinstance(vocabulary, list):
        ids = list(range(len(vocabulary)))
    else:
        raise Damaged("tokenizer.json: has no vocabulary")
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    if not ids or not all(type(each) is int for each in ids):
        raise Damaged("tokenizer.json: has no vocabulary of tokens with ids")
    return max(ids) + 1


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping.

    Raises:
        Damaged: it doesn't.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Damaged(f"{path.name}: can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name}: holds no mapping")
    return found
