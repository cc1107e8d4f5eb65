"""Makes tokenizers, and loads them, as transformers directories."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmrecipe.errors import StageError
from llmrecipe.recipe.tokenizer import ByteLevelBPE

TOKENIZER_FILE = "tokenizer.json"

_CONFIG_FILE = "tokenizer_config.json"

_OPTIONAL_FILES = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")

_MIN_FREQUENCY = 2
"""A pair of tokens that occurs once says nothing about the language."""


def train(description: ByteLevelBPE, texts: Iterable[str], directory: Path) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE (Sennrich et al. 2016) and save it to `directory`.

    The end-of-text token has id 0, the 256 bytes follow, then the merges in the order they were learned. The
    vocabulary is smaller than asked for if no pair of tokens occurs twice any more.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=description.vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[description.end_of_text],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = description.end_of_text
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end, clean_up_tokenization_spaces=False
    )
    fast.save_pretrained(directory)
    return fast


def copy(source: Path, directory: Path) -> PreTrainedTokenizerFast:
    """Copy the files of the tokenizer in `source`, and no others, to `directory`.

    Raises:
        StageError: it isn't a transformers tokenizer with a `tokenizer.json`, can't be loaded, has no end-of-text
            token in its vocabulary, or leaves gaps in its token ids.
    """
    for name in (TOKENIZER_FILE, _CONFIG_FILE):
        if not (source / name).is_file():
            raise StageError(
                f"{source}: no {name} here; load the tokenizer with transformers and `save_pretrained` it to a folder"
            )
    directory.mkdir(parents=True, exist_ok=True)
    for name in (TOKENIZER_FILE, _CONFIG_FILE, *_OPTIONAL_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    try:
        tokenizer = load(directory)
    # The libraries raise bare Exception for a file that they can't read.
    except Exception as error:
        raise StageError(f"{source}: not a tokenizer that transformers can load: {error}") from error
    end, stored = tokenizer.eos_token, Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    if end is None or stored.token_to_id(end) is None:
        given = "no `eos_token`" if end is None else f"`eos_token` {end!r} is not in {TOKENIZER_FILE}"
        raise StageError(
            f"{source / _CONFIG_FILE}: {given}, and documents need a token that ends them; "
            'name one that the vocabulary has, such as "eos_token": "</s>"'
        )
    largest = max(tokenizer.get_vocab().values())
    if largest >= len(tokenizer):
        raise StageError(
            f"{source / TOKENIZER_FILE}: {len(tokenizer)} tokens with ids up to {largest}; ids must leave no gap, "
            "since a model has a row of weights for each"
        )
    return tokenizer


def load(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a directory; no network, no code from it."""
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)
