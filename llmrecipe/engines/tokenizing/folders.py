"""Takes over tokenizers, and loads them, as transformers directories."""

import json
import logging
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from llmrecipe.cards import MaskingCard
from llmrecipe.errors import StageError

log = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"

_CONFIG_FILE = "tokenizer_config.json"

_SPACES = ("Ġ", "▁", " ", "Ċ")
"""How byte-level BPE and SentencePiece write the space, or the line break, that a token begins with."""

_FILES = (
    TOKENIZER_FILE,
    _CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Every file that a tokenizer in the transformers format may consist of."""

_PROBE = "It's 12345 déjà vu:\n\n    return x[0]  # 漢字 Жук 👍"
"""What tokenizers that split or mark words in different ways read differently."""

_MORE_TEMPLATES = "additional_chat_templates"
"""The folder of templates next to the usual one, for tools and the like."""


def copy(source: Path, directory: Path) -> PreTrainedTokenizerFast:
    """Copy the files of the tokenizer in `source`, and no others, to `directory`.

    Raises:
        StageError: it isn't a transformers tokenizer with a `tokenizer.json`, or as `check`.
    """
    for name in (TOKENIZER_FILE, _CONFIG_FILE):
        if not (source / name).is_file():
            raise StageError(
                f"{source}: no {name} here; load the tokenizer with transformers and `save_pretrained` it to a folder"
            )
    directory.mkdir(parents=True, exist_ok=True)
    copy_files(source, directory)
    return check(directory, source)


def copy_files(source: Path, directory: Path) -> None:
    """Copy the files of the tokenizer in `source` to `directory` as they are."""
    for name in _FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
    if (source / _MORE_TEMPLATES).is_dir():
        shutil.copytree(source / _MORE_TEMPLATES, directory / _MORE_TEMPLATES, dirs_exist_ok=True)


def check(directory: Path, source: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `directory`, which was taken over from `source`.

    Raises:
        StageError: it can't be loaded, has no end-of-text token in its vocabulary, or leaves gaps in its token ids.
    """
    try:
        tokenizer = load(directory)
    # The libraries raise bare Exception for a file that they can't read.
    except Exception as error:
        raise StageError(f"{source}: not a tokenizer that transformers can load: {error}") from error
    taken_for, stored = _by_transformers(directory), _stored(directory)
    if not _reads_as(stored, taken_for):
        log.warning(
            "%s: transformers takes this tokenizer for a %s, which reads text otherwise than its %s says; here the "
            'file counts. With "tokenizer_class": "PreTrainedTokenizerFast" it does for whoever loads the model, too',
            source / _CONFIG_FILE,
            type(taken_for).__name__,
            TOKENIZER_FILE,
        )
    end = end_of_text(tokenizer)
    if not end or stored.token_to_id(end) is None:
        given = "no `eos_token`" if not end else f"`eos_token` {end!r} is not in {TOKENIZER_FILE}"
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


def end_of_text(tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that ends a document; encoders such as BERT have one between texts in its place.

    Empty if there is neither, which `check` refuses.
    """
    return str(tokenizer.eos_token or tokenizer.sep_token or "")


def end_of_text_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Its number."""
    number: int = tokenizer.convert_tokens_to_ids(end_of_text(tokenizer))
    return number


def load(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a directory, which reads text as its `tokenizer.json` says; no network, no code from it."""
    loaded, stored = _by_transformers(directory), _stored(directory)
    if _reads_as(stored, loaded):
        return loaded
    # A class has names for tokens that the files needn't tell, such as BertTokenizer's mask.
    roles = {role: getattr(loaded, role) for role in loaded.SPECIAL_TOKENS_ATTRIBUTES}
    known = {role: token for role, token in roles.items() if token and stored.token_to_id(token) is not None}
    return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True, **known)


def _by_transformers(directory: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _stored(directory: Path) -> Tokenizer:
    """What the file says, but for how texts are cut and padded, which is for a caller to say."""
    stored = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    stored.no_truncation()
    stored.no_padding()
    return stored


def _reads_as(stored: Tokenizer, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether it does; classes of transformers, such as `LlamaTokenizer`, build their own of the file's vocabulary."""
    ids = stored.encode(_PROBE, add_special_tokens=False).ids
    if tokenizer(_PROBE, add_special_tokens=False)["input_ids"] != ids:
        return False
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return bool(decoded == stored.decode(ids, skip_special_tokens=False))


def special_tokens(directory: Path) -> dict[str, int]:
    """Names and ids of the special tokens in a directory that have no role, as the end of a text and the mask have."""
    tokenizer = load(directory)
    # Of the class: an instance adds the names that a model gives to others, CodeLlama's `prefix_token` among them.
    roles = {getattr(tokenizer, role) for role in PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES}
    # The file is what encodes; transformers may take for special what it doesn't.
    added = _stored(directory).get_added_tokens_decoder()
    return {token.content: index for index, token in added.items() if token.special and token.content not in roles}


def masking(tokenizer: PreTrainedTokenizerFast) -> MaskingCard | None:
    """What masking needs to know of a tokenizer; None if it has no mask token.

    A token continues a word if it has WordPiece's prefix, or, where tokens bring the space before them, none.
    """
    if tokenizer.mask_token_id is None:
        return None
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    prefix = model.get("continuing_subword_prefix")
    special = set(tokenizer.all_special_ids)
    continuing = [
        index
        for token, index in tokenizer.get_vocab().items()
        if index not in special and (token.startswith(prefix) if prefix else not token.startswith(_SPACES))
    ]
    return MaskingCard(
        mask_token_id=tokenizer.mask_token_id,
        special_ids=tuple(sorted(special)),
        continuing_ids=tuple(sorted(continuing)),
    )
