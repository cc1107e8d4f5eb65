"""The tokenizer of a GGUF file, as transformers reads it.

transformers' own conversion goes by the architecture and knows neither the pre-tokenizer that a file names, so that
SmolLM's digits stay together, nor all of its special tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmrecipe.engines.tokenizing import folders
from llmrecipe.errors import StageError

_CONTROL, _USER_DEFINED = 3, 4
"""llama.cpp's types of tokens that no text becomes, and of those that are found in a text before all else."""

_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""transformers' names of special tokens, and what GGUF's keys begin with."""

_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Words of Llama 3 and of Qwen, which differ in the digits of a word."""


def convert(file: Path, directory: Path) -> PreTrainedTokenizerFast:
    """Write the tokenizer of a GGUF file in which `pretrained` has found nothing wrong to `directory`.

    Raises:
        StageError: it can't be read, or as `folders.check`.
    """
    # Of an extra.
    from gguf import GGUFReader

    keys = {name: field.contents() for name, field in GGUFReader(file).fields.items() if name.startswith("tokenizer.")}
    if keys["tokenizer.ggml.model"] == "gpt2":
        made = PreTrainedTokenizerFast(tokenizer_object=_byte_level_bpe(keys))
    else:
        made = _by_transformers(file)
    tokens = keys["tokenizer.ggml.tokens"]
    for role, name in _ROLES.items():
        number = keys.get(f"tokenizer.ggml.{name}_token_id")
        setattr(made, role, tokens[number] if number is not None else None)
    made.chat_template = keys.get("tokenizer.chat_template")
    made.save_pretrained(directory)
    return folders.check(directory, file)


def _byte_level_bpe(keys: Mapping[str, Any]) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(keys["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"]]
    name = keys["tokenizer.ggml.pre"]
    made = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name == "llama-bpe"))
    made.pre_tokenizer = PRE_TOKENIZERS[name]()
    made.decoder = decoders.ByteLevel()
    if name == "qwen2":
        made.normalizer = normalizers.NFC()
    types = keys.get("tokenizer.ggml.token_type", [])
    for token, kind in zip(vocabulary, types, strict=False):
        if kind in (_CONTROL, _USER_DEFINED):
            added = AddedToken(token, normalized=False, special=kind == _CONTROL)
            (made.add_special_tokens if kind == _CONTROL else made.add_tokens)([added])
    return made


def _by_transformers(file: Path) -> PreTrainedTokenizerFast:
    try:
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    # The libraries raise bare Exception for a file that they can't read.
    except Exception as error:
        raise StageError(f"{file}: transformers can't read its tokenizer: {error}") from error


def _gpt2() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _single_digits() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _words(digits: str) -> PreTokenizer:
    split = pre_tokenizers.Split(Regex(_LETTERS.format(digits=digits)), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE_TOKENIZERS = {
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "llama-bpe": lambda: _words("{1,3}"),
    "qwen2": lambda: _words(""),
}
"""What splits a text into words: those that `pretrained.gguf` knows, by llama.cpp's names."""
