"""Rules that cross the fields of a corpus."""

import itertools

import attrs

from llmrecipe.recipe.augmentation import (
    PLACEHOLDER,
    Augmenter,
    BackTranslate,
    Band,
    Paraphrase,
    TokenNoise,
)
from llmrecipe.recipe.cleaning import CHANGING, Cleaner, GopherQuality, LengthFilter, UrlBlocklist
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.deduplication import SPLITTING, Decontaminate, ExactDedup, MinHashDedup
from llmrecipe.recipe.rules import Findings, Rules, seed_findings
from llmrecipe.recipe.source import WarcFiles

rules = Rules()


@rules.add("heldout_fraction")
def _heldout(corpus: Corpus) -> Findings:
    if corpus.heldout_fraction == 0:
        yield (
            "heldout_fraction",
            "0 leaves no text to measure the training and the models on; use a little, such as 0.02",
        )


@rules.add("clean")
def _cleaners(corpus: Corpus) -> Findings:
    for index, cleaner in enumerate(corpus.clean):
        for path, reason in _cleaner(cleaner):
            yield f"clean[{index}].{path}", reason


def _cleaner(cleaner: Cleaner) -> Findings:
    """What is wrong with a cleaner alone; paths below it."""
    match cleaner:
        case GopherQuality():
            yield from _bounds(cleaner, "min_words", "max_words")
            yield from _bounds(cleaner, "min_mean_word_length", "max_mean_word_length")
        case LengthFilter(min_characters=0, max_characters=None):
            yield "min_characters", "0, with max_characters = None, keeps every document; set one of them"
        case LengthFilter(max_characters=int()):
            yield from _bounds(cleaner, "min_characters", "max_characters")
        case UrlBlocklist(domains=(), words=(), fineweb_lists=False):
            yield "fineweb_lists", "False, with no domains and no words, blocks nothing; use True, or name some"
        case MinHashDedup() if _is_off(cleaner):
            more = itertools.count(cleaner.bands + 1)
            bands = next(bands for bands in more if not _is_off(attrs.evolve(cleaner, bands=bands)))
            reached = f"{cleaner.hashes_per_band} in each come closest, with {cleaner.reached_threshold:.2f}"
            yield (
                "threshold",
                f"{cleaner.threshold:g} can't be reached with bands = {cleaner.bands}, whatever the number of hashes: "
                f"{reached}; use that, or bands = {bands}",
            )
        case Decontaminate(against=(), heldout=False):
            yield (
                "against",
                "(), with heldout = False, compares with nothing; name evaluation sets, or use heldout = True",
            )


def _is_off(cleaner: MinHashDedup) -> bool:
    return abs(cleaner.reached_threshold - cleaner.threshold) > 0.05


def _bounds(cleaner: Cleaner, least: str, most: str) -> Findings:
    low, high = getattr(cleaner, least), getattr(cleaner, most)
    if low > high:
        yield (
            least,
            f"{low:g} is more than {most} = {high:g}, so that every document would be dropped; use at most {high:g}",
        )


@rules.add("source", "clean")
def _addresses(corpus: Corpus) -> Findings:
    if isinstance(corpus.source, WarcFiles) or getattr(corpus.source, "url_field", ""):
        return
    for index, cleaner in enumerate(corpus.clean):
        if isinstance(cleaner, UrlBlocklist):
            named = "set its url_field" if hasattr(corpus.source, "url_field") else "remove it"
            yield f"clean[{index}]", f"looks at addresses, and {corpus.source.tag} brings none; {named}"


@rules.add("clean")
def _late_changes(corpus: Corpus) -> Findings:
    clean = corpus.clean
    for index, cleaner in enumerate(clean):
        split_by = next((other.tag for other in clean[:index] if isinstance(other, SPLITTING)), None)
        compared_again = any(isinstance(other, ExactDedup | MinHashDedup) for other in clean[index:])
        if isinstance(cleaner, CHANGING) and split_by and not compared_again:
            yield (
                f"clean[{index}]",
                f"{cleaner.tag} changes texts that were split before {split_by} and compared there, so that equal ones "
                "may come to stand in both splits; move it forward, or put ExactDedup() after it",
            )


@rules.add("augment")
def _augmenters(corpus: Corpus) -> Findings:
    for index, augmenter in enumerate(corpus.augment):
        for path, reason in _augmenter(augmenter):
            yield f"augment[{index}].{path}", reason


def _augmenter(augmenter: Augmenter) -> Findings:
    yield from seed_findings("seed", augmenter.seed)
    for name in ("similarity", "length_ratio"):
        band = getattr(augmenter, name, None)
        if isinstance(band, Band) and band.least > band.most:
            reason = f"{band.least:g} is more than most = {band.most:g}, so that every text would be dropped"
            yield f"{name}.least", f"{reason}; use at most {band.most:g}"
    match augmenter:
        case BackTranslate() if augmenter.there == augmenter.back:
            yield "back", "is the model of `there`, and the way back needs one that translates into the other direction"
        case Paraphrase() if augmenter.prompt.count(PLACEHOLDER) != 1:
            count = augmenter.prompt.count(PLACEHOLDER)
            yield "prompt", f"holds {PLACEHOLDER} {count} times; write it once, where the text to paraphrase goes"
        case TokenNoise() if not augmenter.delete + augmenter.insert + augmenter.swap:
            yield "delete", "0 with insert = 0 and swap = 0 changes no word; use 0.05 in one of them"
