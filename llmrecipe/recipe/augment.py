"""Text that is made from a corpus and added to it.

Every augmenter draws training documents, at most `share` of them and of their bytes, in an order that its seed and
their ids decide. It makes a text of each, and keeps it if it is neither too near to its source nor too far from it. It
therefore adds at most `share` of the documents, and of the bytes about `share` times the largest `length_ratio`.
"""

from typing import Literal

import attrs

from llmrecipe.recipe import hub
from llmrecipe.recipe.kinds import Augmenter, Decoding, Model
from llmrecipe.recipe.schema import Word, define, kind
from llmrecipe.recipe.validators import between, greater_than, not_empty

__all__ = [
    "BackTranslate",
    "Band",
    "BeamSearch",
    "HubModel",
    "JoinDocuments",
    "Paraphrase",
    "Sampling",
    "ShuffleSpans",
    "TokenNoise",
]

PLACEHOLDER = "{text}"
"""Where a prompt takes the text."""

_SHARE = greater_than(0, 1)


@define("band")
class Band(Word):
    """The values that are accepted, both ends included."""

    least: float = attrs.field(validator=between(0, 1e9))
    """The smallest value."""

    most: float = attrs.field(validator=between(0, 1e9))
    """The largest value; at least `least`."""


@define("hub_model")
class HubModel(Word):
    """A model of the Hugging Face hub."""

    name: str = attrs.field(validator=hub.name)
    """As on the hub: `Helsinki-NLP/opus-mt-en-de`."""

    revision: str = attrs.field(validator=hub.commit)
    """The commit's hash, whole: what a branch or a tag means can change."""


Pretrained = str | HubModel | Model
"""A directory in the transformers format, relative to the project, a model of the hub, or one that is made here."""


@define("beam_search")
class BeamSearch(Decoding):
    """The likeliest text that a beam search finds."""

    beams: int = attrs.field(default=1, validator=between(1, 1_000))
    """Texts followed at once; 1 takes the likeliest token each time."""


@define("sampling")
class Sampling(Decoding):
    """A text drawn at random, by the seed and the id of its source alone.

    Sampled back-translations teach a large model more than the likeliest ones do (Edunov et al. 2018).
    """

    temperature: float = attrs.field(default=1.0, validator=greater_than(0, 1_000))
    """What the logits are divided by: below 1 for likelier tokens, above for rarer ones."""

    top_p: float = attrs.field(default=1.0, validator=_SHARE)
    """Draw from the fewest tokens that hold this probability (Holtzman et al. 2020); 1 draws from all."""


@kind
class AlteringAugmenter(Augmenter):
    """What is made of one document is another, and kept if it is neither too near to it nor too far from it."""

    similarity: Band
    """chrF (Popović 2015) to the source: n-grams of characters in common, from 0 to 1. Unrelated English texts of 100,
    1,000 and 4,000 characters reach 0.2, 0.4 and 0.5."""

    length_ratio: Band
    """Characters of the new text for each of its source."""


@define("back_translate")
class BackTranslate(AlteringAugmenter):
    """Translate a document into another language and back (Sennrich et al. 2016, of documents as Yu et al. 2018).

    Translators are trained on sentences, so a document is cut into paragraphs, and those into `piece_tokens`, between
    two sentences where that is possible. Whatever is between the pieces stays as it is.
    """

    there: Pretrained = attrs.field(validator=not_empty)
    """The sequence-to-sequence model out of the documents' language."""

    back: Pretrained = attrs.field(validator=not_empty)
    """The one back into it."""

    decoding: Decoding = BeamSearch(beams=4)
    """How both models write."""

    piece_tokens: int = attrs.field(default=128, validator=between(8, 1_000_000))
    """Most tokens of a piece; a document is cut to fit the models."""

    max_new_tokens: int = attrs.field(default=256, validator=between(1, 1_000_000))
    """Most tokens written for a piece. A document of which a piece has not ended by then is dropped, as unfinished."""

    batch_size: int = attrs.field(default=16, validator=between(1, 1_000_000))
    """Pieces translated at once. Part of the result: padding changes rounding."""

    similarity: Band = Band(least=0.3, most=0.95)
    """chrF (Popović 2015) to the source: n-grams of characters in common, from 0 to 1. Unrelated English texts of 100,
    1,000 and 4,000 characters reach 0.2, 0.4 and 0.5."""

    length_ratio: Band = Band(least=0.5, most=2.0)
    """Characters of the new text for each of its source."""


@define("paraphrase")
class Paraphrase(AlteringAugmenter):
    """Let a model say a document in other words (as in rephrased pre-training text, Maini et al. 2024).

    The model is a sequence-to-sequence one or a causal one that follows instructions; its configuration says which.
    If its tokenizer has a chat template, the prompt is the user's message. Documents are cut as by `BackTranslate`.
    """

    model: Pretrained = attrs.field(validator=not_empty)
    """The model."""

    prompt: str = "Rewrite the following text in other words. Keep its meaning.\n\n{text}"
    """What it is asked; `{text}` is replaced by the piece; alone, it suits a model that does nothing but paraphrase."""

    decoding: Decoding = Sampling(temperature=0.7, top_p=0.9)
    """How the model writes."""

    piece_tokens: int = attrs.field(default=256, validator=between(8, 1_000_000))
    """Most tokens of a piece, without the prompt; a document is cut to fit the model."""

    max_new_tokens: int = attrs.field(default=512, validator=between(1, 1_000_000))
    """Most tokens written for a piece. A document of which a piece has not ended by then is dropped, as unfinished."""

    batch_size: int = attrs.field(default=16, validator=between(1, 1_000_000))
    """Pieces paraphrased at once. Part of the result: padding changes rounding."""

    similarity: Band = Band(least=0.3, most=0.9)
    """chrF (Popović 2015) to the source, as in `BackTranslate`."""

    length_ratio: Band = Band(least=0.5, most=2.0)
    """Characters of the new text for each of its source."""


@define("join_documents")
class JoinDocuments(Augmenter):
    """Put several documents one after the other into one, so a model sees contexts longer than they are.

    They come from the same shard. Nothing but an empty text is dropped: the texts are those of the sources.
    """

    documents: int = attrs.field(default=4, validator=between(2, 1_000_000))
    """Documents in one."""

    separator: str = "\n\n"
    """The text between two of them."""


@define("shuffle_spans")
class ShuffleSpans(AlteringAugmenter):
    """Put the spans of a document in another order, as in BART's sentence permutation (Lewis et al. 2020).

    Whatever is between the spans, such as a blank line, stays in its place.
    """

    span: Literal["sentence", "line", "paragraph"] = "sentence"
    """What is moved as a whole."""

    similarity: Band = Band(least=0.5, most=1.0)
    """chrF (Popović 2015) to the source, as in `BackTranslate`; most n-grams outlive a shuffle."""

    length_ratio: Band = Band(least=0.9, most=1.1)
    """Characters of the new text for each of its source."""


@define("token_noise")
class TokenNoise(AlteringAugmenter):
    """Delete, double and swap words at random (Wei & Zou 2019, EDA, without its synonyms).

    Words are separated by white space, which stays in its place.
    """

    delete: float = attrs.field(default=0.05, validator=between(0, 1))
    """Probability that a word is left out."""

    insert: float = attrs.field(default=0.05, validator=between(0, 1))
    """Probability that a random word of the document is put in after a word."""

    swap: float = attrs.field(default=0.05, validator=between(0, 1))
    """Probability that a word changes its place with a random other one."""

    similarity: Band = Band(least=0.5, most=1.0)
    """chrF (Popović 2015) to the source, as in `BackTranslate`."""

    length_ratio: Band = Band(least=0.7, most=1.4)
    """Characters of the new text for each of its source."""


def labels(augmenters: tuple[Augmenter, ...]) -> list[str]:
    """What each of them is called in ids, metrics and files: its tag, the second of a kind `paraphrase2`, and so on."""
    tags = [augmenter.tag for augmenter in augmenters]
    return [
        tag if (number := tags[: index + 1].count(tag)) == 1 else f"{tag}{number}" for index, tag in enumerate(tags)
    ]


def models(augmenter: Augmenter) -> dict[str, Pretrained]:
    """The models that it needs, by field."""
    return {name: getattr(augmenter, name) for name in ("there", "back", "model") if hasattr(augmenter, name)}
