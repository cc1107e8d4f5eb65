"""Recipes with mistakes: each line that ends in a comment has one, and the comment is a word of what is said of it."""

from words import KeepLongLines

from llmrecipe import (
    ByteLevelBPE,
    CausalLM,
    Corpus,
    Llama,
    Quantized,
    Recipe,
    Steps,
    Trained,
    Training,
    clean,
    evolve,
    measure,
    optimizer,
    schedule,
    scheme,
    source,
)


def misspelled_words() -> object:
    """Words that aren't there."""
    from llmrecipe import Quantised  # Quantised

    return Quantised, clean.ExactDeduplication()  # ExactDeduplication


def misplaced_words() -> object:
    """Words of another room."""
    from llmrecipe import Perplexity  # Perplexity

    return Perplexity, optimizer.Cosine()  # Cosine


def wrong_fields(base: Trained) -> None:
    """Fields that aren't there, are missing, or can't be set."""
    Llama(hidden_size=8, num_layers=1, num_heads=2, num_attention_heads=2, num_key_value_heads=2)  # num_heads
    Training(duration=Steps(10), optimizer=optimizer.SGD(learning_rate=1))  # global_batch_size
    Recipe(models=(base,), compression=scheme.W8A16())  # compression
    base.name = "other"  # name
    print(base.vocabulary_size)  # vocabulary_size


def wrong_types(base: Trained) -> None:
    """Values that a field can't have."""
    KeepLongLines(characters="4")  # int
    ByteLevelBPE(vocab_size=1.5)  # int
    CausalLM(sequence_length="long")  # int
    Corpus(name="python", source=source.PythonStdlib(), heldout=0.05)  # Fraction
    Corpus(name="python", source=source.PythonStdlib(), clean=(clean.FixUnicode(), scheme.W8A16()))  # Cleaner
    Training(duration=100, global_batch_size=1, optimizer=optimizer.SGD(learning_rate=1))  # Steps
    Training(duration=Steps(1), global_batch_size=1, optimizer=schedule.Cosine())  # Optimizer
    Quantized(model=base.network, scheme=scheme.W8A16())  # Model
    Recipe(models=(base,), measures=(measure.Perplexity, measure.Samples(prompts=("if",))))  # Measure
    Recipe(models=base)  # Model


def wrong_variants(base: Trained) -> Recipe:
    """A variant is of the type of what it is a variant of."""
    return evolve(base, training__seed=8)  # Recipe
