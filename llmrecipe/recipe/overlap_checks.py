"""Rules about text that is measured on: that nothing was learned from it under another name."""

from collections.abc import Iterator

from llmrecipe.recipe import names
from llmrecipe.recipe.corpus import Corpus
from llmrecipe.recipe.kinds import Cleaner, Model, Source
from llmrecipe.recipe.measure import Measure
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Fields, Findings


def findings(recipe: Recipe, fields: Fields) -> Findings:
    """Which corpora hold out documents that another one gives to learn from; paths below the recipe.

    Only sources that are written alike are known to have the same documents.
    """
    if not fields.is_right(recipe):
        return
    # A name is one corpus.
    learned = {corpus.name: (model, corpus) for model, corpus in reversed(list(_learned(recipe)))}
    for index, measure in enumerate(recipe.measures):
        for corpus in _measured(recipe, measure):
            for model, other in learned.values():
                reason = overlap(other, corpus)
                if reason is not None:
                    both = f"reads {corpus.name}, and {model.name} learns from {other.name}"
                    yield f"measures[{index}]", f"{both}: {reason}"


def overlap(learned: Corpus, measured: Corpus) -> str | None:
    """Why what is held out of a corpus is learned from in another, and what to do; None if nothing says that it is."""
    if learned == measured:
        return None
    if isinstance(measured.heldout, Source):
        if learned.source != measured.heldout or measured.heldout in learned.evaluation_sets().values():
            return None
        return f"the source of {learned.name} is what {measured.name} holds out; leave it out of what is learned from"
    if learned.source != measured.source or _holds_out(learned, measured):
        return None
    return (
        "both have one source and don't split it alike, so documents that are held out of the one are learned from in "
        "the other; give both the same heldout and the same cleaners that change texts, or use one corpus for both"
    )


def _holds_out(learned: Corpus, measured: Corpus) -> bool:
    """Whether what the one holds out the other does, of the same source: a larger share has a smaller one in it."""
    (mine, changed), (its, its_changed) = _split(learned), _split(measured)
    if changed != its_changed:
        return False
    return mine == its or (isinstance(mine, Fraction) and isinstance(its, Fraction) and mine.of_total >= its.of_total)


def _split(corpus: Corpus) -> tuple[object, tuple[Cleaner, ...]]:
    """What decides which of its documents are held out: a share, and what their texts are by then."""
    first = next((index for index, cleaner in enumerate(corpus.clean) if cleaner.needs_split), len(corpus.clean))
    return corpus.heldout, tuple(cleaner for cleaner in corpus.clean[:first] if cleaner.changes_text)


def _learned(recipe: Recipe) -> Iterator[tuple[Model, Corpus]]:
    """The corpora that the models of a recipe learn from or are calibrated by, and all that they are made from."""
    for path, word in names.words(recipe, ""):
        if isinstance(word, Model):
            for _, text in names.texts_of(word, path):
                yield from ((word, part.corpus) for part in text.parts)


def _measured(recipe: Recipe, measure: Measure) -> Iterator[Corpus]:
    text = names.measured_text_of(recipe, measure)
    yield from (part.corpus for part in text.parts) if text is not None else ()
