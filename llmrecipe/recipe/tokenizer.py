"""How text becomes tokens."""

import attrs

from llmrecipe.recipe.schema import at_least, define, not_empty


@define("byte_level_bpe")
class ByteLevelBPE:
    """Byte-pair encoding over bytes, trained on the corpus (Sennrich et al. 2016; GPT-2's byte alphabet)."""

    vocab_size: int = attrs.field(validator=at_least(257))
    """Tokens in the vocabulary: 256 bytes, the end-of-text token and the merges. A small corpus may give fewer."""

    end_of_text: str = attrs.field(default="<|endoftext|>", validator=not_empty)
    """The token that ends every document; also the model's begin, end and padding token."""


@define("pretrained_tokenizer")
class PretrainedTokenizer:
    """A tokenizer that exists already, in the transformers format."""

    path: str = attrs.field(validator=not_empty)
    """Its directory, relative to the project; holds `tokenizer.json` and `tokenizer_config.json`."""


Tokenizer = ByteLevelBPE | PretrainedTokenizer
