"""Documents to a tokenizer, or an existing tokenizer taken over."""

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from llmrecipe import artifacts
from llmrecipe.engines.datatrove import documents
from llmrecipe.engines.tokenizing import folders, training
from llmrecipe.engines.tokenizing.long_texts import LEARNED_AT_ONCE, cut
from llmrecipe.recipe.tokenizer import TrainedTokenizer, Unigram, WordPiece
from llmrecipe.sections import TokenizerSection
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)


def run(context: StageContext[TokenizerSection]) -> None:
    """Write the tokenizer as a transformers directory."""
    directory = context.output / "tokenizer"
    wanted = context.section.tokenizer
    if isinstance(wanted, TrainedTokenizer):
        sources = context.corpora("documents").values()
        for source in sources:
            artifacts.open_artifact(source, "documents")

        special = (getattr(wanted, "end_of_text", None), *getattr(wanted, "special_tokens", ()))
        quoting: Counter[str] = Counter()

        def texts() -> Iterator[str]:
            quoting.clear()
            for text in chain.from_iterable(documents.texts(source, "train") for source in sources):
                quoting.update(token for token in special if token and token in text)
                yield from cut(text, LEARNED_AT_ONCE)

        log.info("learns %s tokens from the training documents", f"{wanted.vocab_size:,}")
        tokenizer = training.train(wanted, texts, directory)
        for token, count in quoting.items():
            log.warning(
                "%d training documents hold %r: it is text there for every stage, but the special token for whoever "
                "loads the tokenizer; name the token otherwise",
                count,
                token,
            )
        if len(tokenizer) < wanted.vocab_size:
            log.warning(
                "the corpus gives only %d of the %d tokens asked for: %s",
                len(tokenizer),
                wanted.vocab_size,
                _why_no_more(wanted, texts),
            )
    else:
        tokenizer = folders.copy(context.inputs["source"], directory)
    artifacts.seal(directory, "tokenizer")
    context.measured["vocab_size"] = len(tokenizer)


def _why_no_more(tokenizer: TrainedTokenizer, texts: training.Texts) -> str:
    if isinstance(tokenizer, Unigram):
        why = "there are no more pieces of words that SentencePiece keeps"
    else:
        why = "no more pairs of tokens within words occur twice"
    count = training.left_out(tokenizer, texts) if isinstance(tokenizer, Unigram | WordPiece) else 0
    if not count:
        return why
    coverage = tokenizer.character_coverage  # type: ignore[attr-defined]
    return f"{why}, and character_coverage = {coverage:g} leaves out {count} rarer characters, which 1 lets in"
