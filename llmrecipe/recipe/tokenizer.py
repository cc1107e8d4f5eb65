"""How text becomes tokens."""

import re
from pathlib import PurePosixPath
from typing import ClassVar

import attrs

from llmrecipe.recipe.kinds import Model, Text, Tokenizer
from llmrecipe.recipe.schema import UNWRITTEN, define, kind
from llmrecipe.recipe.validators import between, no_duplicates, not_empty

_OWN_OF_UNIGRAM = re.compile(r"<unk>|<0x[0-9A-F]{2}>")

_MARKED = re.compile(r"<.*[^\W\d_].*>|\[.*[^\W\d_].*\]|\{.*[^\W\d_].*\}", re.DOTALL)
"""How tokens are written that are no text: a name in brackets."""


@kind
class TrainedTokenizer(Tokenizer):
    """A tokenizer that is trained here."""

    given_name: str | None = attrs.field(default=None, alias="name", metadata=UNWRITTEN)
    """Its name in stage names and folders; made from text, kind and size unless given: `python-stdlib-bpe-2048`."""

    text: Text | None = attrs.field(default=None, metadata=UNWRITTEN)
    """What it is trained on: the training documents; None for the text of the model that it is the tokenizer of."""

    vocab_size: int = attrs.field(validator=between(64, 10_000_000))
    """Tokens in the vocabulary."""

    short_name: ClassVar[str]
    """Its kind, in names."""

    fewest_tokens: ClassVar[int]
    """The smallest vocabulary that it can have, without special tokens of the user's."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders."""
        text = self.text.name if self.text is not None else "tokenizer"
        return self.given_name or f"{text}-{self.short_name}-{self.vocab_size}"

    def meaning_of(self, token: str) -> str | None:
        """What a token is used for already, so it can't be a special one; None if nothing."""
        return None if _MARKED.fullmatch(token) else "is something that texts are made of"


@define("byte_level_bpe")
class ByteLevelBPE(TrainedTokenizer):
    """Byte-pair encoding over bytes, trained on the corpus (Sennrich et al. 2016; GPT-2's byte alphabet)."""

    short_name: ClassVar[str] = "bpe"
    fewest_tokens: ClassVar[int] = 257
    has_mask_token: ClassVar[bool | None] = False

    vocab_size: int = attrs.field(validator=between(257, 10_000_000))
    """Tokens in the vocabulary: 256 bytes, the end-of-text token, the special tokens and the merges. A small corpus may
    give fewer."""

    end_of_text: str = attrs.field(default="<|endoftext|>", validator=not_empty)
    """The token that ends every document; also the model's begin, end and padding token. A name in brackets, `<…>`,
    `[…]` or `{…}`, that no document holds: whoever loads the tokenizer gets the token wherever a text has its name."""

    special_tokens: tuple[str, ...] = attrs.field(default=(), validator=no_duplicates)
    """Further tokens that no text encodes to, for objectives to use (`FillInTheMiddle`); named as `end_of_text` is."""


@define("unigram")
class Unigram(TrainedTokenizer):
    """A unigram language model over pieces of words, trained on the corpus (Kudo 2018) by SentencePiece.

    A text is cut into those pieces that make it most likely. Characters without a piece are spelled in bytes, so every
    text comes back from its tokens unchanged.
    """

    short_name: ClassVar[str] = "unigram"
    fewest_tokens: ClassVar[int] = 300
    has_mask_token: ClassVar[bool | None] = False

    vocab_size: int = attrs.field(validator=between(300, 10_000_000))
    """Tokens in the vocabulary: 256 bytes, `<unk>`, the end-of-text token, the special tokens and pieces. A small
    corpus may give fewer."""

    character_coverage: float = attrs.field(default=0.9995, validator=between(0, 1))
    """Share of the corpus's characters that get pieces: the most frequent ones, with at most half of the vocabulary
    unless other pieces leave more."""

    end_of_text: str = attrs.field(default="<|endoftext|>", validator=not_empty)
    """The token that ends every document; also the model's begin, end and padding token. A name in brackets, `<…>`,
    `[…]` or `{…}`, that no document holds: whoever loads the tokenizer gets the token wherever a text has its name."""

    special_tokens: tuple[str, ...] = attrs.field(default=(), validator=no_duplicates)
    """Further tokens that no text encodes to, for objectives to use (`FillInTheMiddle`); named as `end_of_text` is."""

    def meaning_of(self, token: str) -> str | None:
        """What a token is used for already, so it can't be a special one; None if nothing."""
        if _OWN_OF_UNIGRAM.fullmatch(token):
            return "is one of the tokens that every Unigram has"
        return super().meaning_of(token)


@define("word_piece")
class WordPiece(TrainedTokenizer):
    """BERT's tokenizer, for encoders: words and parts of words, trained on the corpus.

    (Schuster & Nakajima 2012; Devlin et al. 2019.) Text is cleaned and cut at white space, at punctuation and around
    Chinese characters; a word is read as the longest token that begins it, the longest that continues from there
    (`##…`), and so on. The merges are those of byte-pair encoding, by frequency, and not by likelihood as in 2012.
    White space and, if asked for, case and accents are not kept. A word with a character that has no token, or of more
    than 100 characters, becomes `[UNK]`. Documents end with `[SEP]`.
    """

    short_name: ClassVar[str] = "wordpiece"
    fewest_tokens: ClassVar[int] = 64
    has_mask_token: ClassVar[bool | None] = True

    vocab_size: int = attrs.field(validator=between(64, 10_000_000))
    """Tokens in the vocabulary: `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, characters, their `##` forms and the
    merges. A small corpus may give fewer."""

    lowercase: bool = True
    """Whether capitals are read as small letters, and accents left out."""

    character_coverage: float = attrs.field(default=0.9999, validator=between(0, 1))
    """Share of the corpus's characters that get tokens: the most frequent ones, with at most half of the vocabulary
    unless merges leave more."""


@define("pretrained_tokenizer")
class PretrainedTokenizer(Tokenizer):
    """A tokenizer that exists already, in the transformers format: a directory's, or a model's."""

    path: str | None = attrs.field(default=None, validator=attrs.validators.optional(not_empty))
    """Its directory, relative to the project; holds `tokenizer.json` and `tokenizer_config.json`."""

    model: Model | None = attrs.field(default=None, metadata=UNWRITTEN)
    """The model that it is taken from, in place of `path`."""

    given_name: str | None = attrs.field(default=None, alias="name", metadata=UNWRITTEN)
    """Its name in stage names and folders; the last part of the path, or the model's name, unless given."""

    @property
    def name(self) -> str:
        """Its name in stage names and folders."""
        if self.given_name:
            return self.given_name
        if self.model is not None:
            return self.model.name
        return re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(self.path or "").name).strip("-_") or "tokenizer"

    @property
    def origin(self) -> Tokenizer:
        """The tokenizer whose tokens these are: itself, unless it is taken from a model."""
        if self.model is None:
            return self
        # A model that was made elsewhere has a tokenizer of its own.
        taken = self.model.vocabulary
        return self if taken == self else taken.origin
