"""How text becomes tokens."""

from typing import Any

import attrs

from llmrecipe.recipe.schema import at_least, between, define, no_duplicates, not_empty


def _special_tokens() -> Any:
    return attrs.field(default=(), validator=no_duplicates)


@define("byte_level_bpe")
class ByteLevelBPE:
    """Byte-pair encoding over bytes, trained on the corpus (Sennrich et al. 2016; GPT-2's byte alphabet)."""

    vocab_size: int = attrs.field(validator=at_least(257))
    """Tokens in the vocabulary: 256 bytes, the end-of-text token, the special tokens and the merges. A small corpus may
    give fewer."""

    end_of_text: str = attrs.field(default="<|endoftext|>", validator=not_empty)
    """The token that ends every document; also the model's begin, end and padding token."""

    special_tokens: tuple[str, ...] = _special_tokens()
    """Further tokens that no text encodes to, for objectives to use (`FillInTheMiddle`)."""


@define("unigram")
class Unigram:
    """A unigram language model over pieces of words, trained on the corpus (Kudo 2018) by SentencePiece.

    A text is cut into those pieces that make it most likely. Characters without a piece are spelled in bytes, so that
    every text comes back from its tokens unchanged.
    """

    vocab_size: int = attrs.field(validator=at_least(300))
    """Tokens in the vocabulary: 256 bytes, `<unk>`, the end-of-text token, the special tokens and pieces. A small
    corpus may give fewer."""

    character_coverage: float = attrs.field(default=0.9995, validator=between(0, 1))
    """Share of the corpus's characters that get pieces: the most frequent ones, with at most half of the vocabulary."""

    end_of_text: str = attrs.field(default="<|endoftext|>", validator=not_empty)
    """The token that ends every document; also the model's begin, end and padding token."""

    special_tokens: tuple[str, ...] = _special_tokens()
    """Further tokens that no text encodes to, for objectives to use (`FillInTheMiddle`)."""


@define("word_piece")
class WordPiece:
    """BERT's tokenizer, for encoders: words and parts of words, trained on the corpus.

    (Schuster & Nakajima 2012; Devlin et al. 2019.) Text is cleaned and cut at white space, at punctuation and around
    Chinese characters; a word is read as the longest token that begins it, the longest that goes on from there (`##…`),
    and so on. The merges are those of byte-pair encoding, by frequency, and not by likelihood as in 2012. White space
    and, if asked for, case and accents are not kept. A word with a character that has no token, or of more than 100
    characters, becomes `[UNK]`. Documents end with `[SEP]`.
    """

    vocab_size: int = attrs.field(validator=at_least(64))
    """Tokens in the vocabulary: `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`, characters, their `##` forms and the
    merges. A small corpus may give fewer."""

    lowercase: bool = True
    """Whether capitals are read as small letters, and accents left out."""

    character_coverage: float = attrs.field(default=0.9999, validator=between(0, 1))
    """Share of the corpus's characters that get tokens: the most frequent ones, with at most half of the vocabulary."""


@define("pretrained_tokenizer")
class PretrainedTokenizer:
    """A tokenizer that exists already, in the transformers format."""

    path: str = attrs.field(validator=not_empty)
    """Its directory, relative to the project; holds `tokenizer.json` and `tokenizer_config.json`."""


TrainedTokenizer = ByteLevelBPE | Unigram | WordPiece

Tokenizer = TrainedTokenizer | PretrainedTokenizer
