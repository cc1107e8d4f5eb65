"""Rules that cross the fields of a text: of corpora, cleaners, augmenters and mixtures."""

import itertools
import math

from llmrecipe.recipe.augment import PLACEHOLDER, BackTranslate, Band, Paraphrase, TokenNoise
from llmrecipe.recipe.clean import Decontaminate, GopherQuality, LengthFilter, MinHashDedup, UrlBlocklist
from llmrecipe.recipe.corpus import Corpus, Mixture
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Model, Source
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.rules import Findings, Rules
from llmrecipe.recipe.schema import Word

SMALLEST_SHARE = 500
"""A part of a mixture is at least one sequence in so many: `engines.tokens.order` deals them out by the thousand."""

rules = Rules()


@rules.add("heldout", "source")
def _heldout(corpus: Corpus) -> Findings:
    if isinstance(corpus.heldout, Fraction) and corpus.heldout.of_total == 0:
        yield (
            "heldout",
            "Fraction(0) leaves no text to measure the models on; use a little, such as Fraction(0.02), or a source",
        )
    elif corpus.heldout == corpus.source:
        yield (
            "heldout",
            "is the source itself, so every training document would equal a held-out one and be dropped; use a share "
            "of it, such as Fraction(0.02)",
        )


@rules.add("min_words", "max_words")
def _words(cleaner: GopherQuality) -> Findings:
    yield from _bounds(cleaner, "min_words", "max_words")


@rules.add("min_mean_word_length", "max_mean_word_length")
def _word_length(cleaner: GopherQuality) -> Findings:
    yield from _bounds(cleaner, "min_mean_word_length", "max_mean_word_length")


@rules.add("min_characters", "max_characters")
def _characters(cleaner: LengthFilter) -> Findings:
    if cleaner.max_characters is not None:
        yield from _bounds(cleaner, "min_characters", "max_characters")
    elif cleaner.min_characters == 0:
        yield "min_characters", "0, with max_characters = None, keeps every document; set one of them"


def _bounds(cleaner: Word, least: str, most: str) -> Findings:
    low, high = getattr(cleaner, least), getattr(cleaner, most)
    if low > high:
        yield least, f"{low:g} is more than {most} = {high:g}, so every document would be dropped; use at most {high:g}"


@rules.add("domains", "words", "fineweb_lists")
def _blocks_nothing(cleaner: UrlBlocklist) -> Findings:
    if not (cleaner.domains or cleaner.words or cleaner.fineweb_lists):
        yield "fineweb_lists", "False, with no domains and no words, blocks nothing; use True, or name some"


@rules.add("bands", "threshold")
def _threshold(cleaner: MinHashDedup) -> Findings:
    if _is_off(cleaner):
        more = itertools.count(cleaner.bands + 1)
        bands = next(bands for bands in more if not _is_off(evolve(cleaner, bands=bands)))
        reached = f"{cleaner.hashes_per_band} in each come closest, with {cleaner.reached_threshold:.2f}"
        yield (
            "threshold",
            f"{cleaner.threshold:g} can't be reached with bands = {cleaner.bands}, whatever the number of hashes: "
            f"{reached}; use that, or bands = {bands}",
        )


def _is_off(cleaner: MinHashDedup) -> bool:
    return abs(cleaner.reached_threshold - cleaner.threshold) > 0.05


@rules.add("against", "heldout")
def _compares_with_nothing(cleaner: Decontaminate) -> Findings:
    if not cleaner.against and not cleaner.heldout:
        yield "against", "(), with heldout = False, compares with nothing; name evaluation sets, or use heldout = True"


@rules.add("source", "clean")
def _addresses(corpus: Corpus) -> Findings:
    if corpus.source.has_addresses:
        return
    for index, cleaner in enumerate(corpus.clean):
        if cleaner.reads_addresses:
            named = "set its url_field" if hasattr(corpus.source, "url_field") else "remove it"
            yield f"clean[{index}]", f"looks at addresses, and {corpus.source.tag} brings none; {named}"


@rules.add("clean", "heldout")
def _late_changes(corpus: Corpus) -> Findings:
    if isinstance(corpus.heldout, Source):
        # Its documents are compared with the others once no text changes any more.
        return
    clean = corpus.clean
    for index, cleaner in enumerate(clean):
        split_by = next((other.tag for other in clean[:index] if other.needs_split), None)
        is_compared = cleaner.compares or any(other.drops_equals for other in clean[index:])
        if cleaner.changes_text and split_by and not is_compared:
            yield (
                f"clean[{index}]",
                f"{cleaner.tag} changes texts that were split before {split_by} and compared there, so equal ones may "
                "end up in both splits; move it forward, or put ExactDedup() after it",
            )


@rules.add("least", "most")
def _band(band: Band) -> Findings:
    if band.least > band.most:
        reason = f"{band.least:g} is more than most = {band.most:g}, so every text would be dropped"
        yield "least", f"{reason}; use at most {band.most:g}"


@rules.add("there", "back")
def _translators(augmenter: BackTranslate) -> Findings:
    for name in ("there", "back"):
        model = getattr(augmenter, name)
        if isinstance(model, Model):
            yield (
                name,
                f"{model.name} is {type(model.network).__name__}, and translating takes a sequence-to-sequence model; "
                "name a folder that holds one, or a HubModel",
            )
    if augmenter.there == augmenter.back:
        yield "back", "is the model of `there`, and the way back needs one that translates into the other direction"


@rules.add("prompt")
def _prompt(augmenter: Paraphrase) -> Findings:
    count = augmenter.prompt.count(PLACEHOLDER)
    if count != 1:
        yield "prompt", f"holds {PLACEHOLDER} {count} times; write it once, where the text to paraphrase goes"


@rules.add("model.objective", "prompt")
def _writer(augmenter: Paraphrase) -> Findings:
    if isinstance(augmenter.model, Model) and augmenter.model.objective.is_masked:
        learned = type(augmenter.model.objective).__name__
        yield "model", f"{augmenter.model.name} learned {learned}, which writes no text; use a model with CausalLM"


@rules.add("delete", "insert", "swap")
def _changes_no_word(augmenter: TokenNoise) -> Findings:
    if not augmenter.delete + augmenter.insert + augmenter.swap:
        yield "delete", "0 with insert = 0 and swap = 0 changes no word; use 0.05 in one of them"


@rules.add("parts")
def _mixture(mixture: Mixture) -> Findings:
    names, total = [part.corpus.name for part in mixture.parts], sum(part.weight for part in mixture.parts)
    for index, part in enumerate(mixture.parts):
        if names.index(part.corpus.name) < index:
            yield (
                f"parts[{index}].corpus",
                f"the mixture has {part.corpus.name!r} twice; keep one, with the sum of their weights",
            )
        if part.weight * SMALLEST_SHARE < total:
            yield (
                f"parts[{index}].weight",
                f"{part.weight:g} of {total:g} is less than 1 in {SMALLEST_SHARE} sequences, a share that 1,000 "
                f"sequences in a row can't keep; use {math.ceil(1e4 * total / SMALLEST_SHARE) / 1e4:g} or more",
            )
