"""What happens to the documents of a corpus, in order: repairs and filters first, then what compares documents."""

from llmrecipe.recipe.cleaning import (
    C4Quality,
    FineWebQuality,
    FixUnicode,
    GopherQuality,
    GopherRepetition,
    LanguageFilter,
    LengthFilter,
    MaskPersonalData,
    RegexFilter,
    UrlBlocklist,
)
from llmrecipe.recipe.deduplication import Decontaminate, ExactDedup, MinHashDedup, SentenceDedup

__all__ = [
    "C4Quality",
    "Decontaminate",
    "ExactDedup",
    "FineWebQuality",
    "FixUnicode",
    "GopherQuality",
    "GopherRepetition",
    "LanguageFilter",
    "LengthFilter",
    "MaskPersonalData",
    "MinHashDedup",
    "RegexFilter",
    "SentenceDedup",
    "UrlBlocklist",
]
