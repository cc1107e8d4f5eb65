"""Train a language model as code: the words of the recipe language."""

from llmrecipe.recipe.augmentation import (
    BackTranslate,
    Band,
    BeamSearch,
    HubModel,
    JoinDocuments,
    Paraphrase,
    Sampling,
    ShuffleSpans,
    TokenNoise,
)
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
from llmrecipe.recipe.compression import FP8, GPTQ, W4A16, W8A8, W8A16, Quantize, RoundToNearest
from llmrecipe.recipe.corpus import Corpus, Mixture, Part
from llmrecipe.recipe.deduplication import Decontaminate, ExactDedup, MinHashDedup, SentenceDedup
from llmrecipe.recipe.evaluation import Perplexity, PseudoPerplexity, Samples
from llmrecipe.recipe.execution import Execution, Local, Ray, Slurm
from llmrecipe.recipe.model import Bert, Llama, Ratio
from llmrecipe.recipe.objective import CausalLM, MaskedLM, MultiMaskLM, SingleTokens, Spans, WholeWords
from llmrecipe.recipe.optimizer import SGD, AdamW, Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay
from llmrecipe.recipe.parallelism import Parallelism
from llmrecipe.recipe.quantity import Fraction, Steps, Tokens
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.runtime import Runtime
from llmrecipe.recipe.source import (
    CsvFiles,
    HubDataset,
    JsonlFiles,
    ParquetFiles,
    PythonPackages,
    PythonStdlib,
    TextFiles,
    WarcFiles,
)
from llmrecipe.recipe.tokenizer import ByteLevelBPE, PretrainedTokenizer, Unigram, WordPiece
from llmrecipe.recipe.training import Anomalies, Dropout, Training

__all__ = [
    "FP8",
    "GPTQ",
    "SGD",
    "W4A16",
    "W8A8",
    "W8A16",
    "AdamW",
    "Anomalies",
    "BackTranslate",
    "Band",
    "BeamSearch",
    "Bert",
    "ByteLevelBPE",
    "C4Quality",
    "CausalLM",
    "Constant",
    "Corpus",
    "Cosine",
    "CsvFiles",
    "Decontaminate",
    "Dropout",
    "ExactDedup",
    "Execution",
    "FineWebQuality",
    "FixUnicode",
    "Fraction",
    "GopherQuality",
    "GopherRepetition",
    "HubDataset",
    "HubModel",
    "InverseSquareRoot",
    "JoinDocuments",
    "JsonlFiles",
    "LanguageFilter",
    "LengthFilter",
    "Linear",
    "Llama",
    "Local",
    "MaskPersonalData",
    "MaskedLM",
    "MinHashDedup",
    "Mixture",
    "MultiMaskLM",
    "Parallelism",
    "Paraphrase",
    "ParquetFiles",
    "Part",
    "Perplexity",
    "PretrainedTokenizer",
    "PseudoPerplexity",
    "PythonPackages",
    "PythonStdlib",
    "Quantize",
    "Ratio",
    "Ray",
    "Recipe",
    "RegexFilter",
    "RoundToNearest",
    "Runtime",
    "Samples",
    "Sampling",
    "SentenceDedup",
    "ShuffleSpans",
    "SingleTokens",
    "Slurm",
    "Spans",
    "Steps",
    "TextFiles",
    "TokenNoise",
    "Tokens",
    "Training",
    "Unigram",
    "UrlBlocklist",
    "WarcFiles",
    "WarmupStableDecay",
    "WholeWords",
    "WordPiece",
]  # fmt: skip
