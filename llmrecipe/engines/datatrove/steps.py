"""The cleaners that look at one document at a time, as steps of datatrove's."""

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.formatters.ftfy import FTFYFormatter

from llmrecipe.recipe.cleaning import (
    C4Quality,
    FineWebQuality,
    FixUnicode,
    GopherQuality,
    GopherRepetition,
    MaskPersonalData,
)

Step = FixUnicode | GopherQuality | GopherRepetition | C4Quality | FineWebQuality | MaskPersonalData


def step_of(cleaner: Step) -> PipelineStep:
    """datatrove's step for a cleaner; a filter's statistics hold what it dropped, by reason."""
    match cleaner:
        case FixUnicode():
            return FTFYFormatter()
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
            )
        case GopherRepetition():
            return GopherRepetitionFilter(
                dup_line_frac=cleaner.max_duplicate_lines,
                dup_para_frac=cleaner.max_duplicate_paragraphs,
                dup_line_char_frac=cleaner.max_duplicate_line_characters,
                dup_para_char_frac=cleaner.max_duplicate_paragraph_characters,
            )
        case C4Quality():
            return C4QualityFilter(
                min_num_sentences=cleaner.min_sentences,
                min_words_per_line=cleaner.min_words_per_line,
                max_word_length=cleaner.max_word_length,
                filter_no_terminal_punct=cleaner.terminal_punctuation,
                filter_curly_bracket=not cleaner.curly_brackets,
            )
        case FineWebQuality():
            return FineWebQualityFilter(
                line_punct_thr=cleaner.min_punctuated_lines,
                short_line_thr=cleaner.max_short_lines,
                short_line_length=cleaner.short_line_length,
                char_duplicates_ratio=cleaner.max_duplicate_line_characters,
                new_line_ratio=cleaner.max_newlines_per_word,
            )
        case MaskPersonalData():
            return PIIFormatter(remove_emails=cleaner.emails, remove_ips=cleaner.ip_addresses)
