"""A user's recipes, with words of the user's own: nothing in them is wrong."""

from words import KeepLongLines, Vocabulary

from llmrecipe import (
    ByteLevelBPE,
    CausalLM,
    Corpus,
    Distilled,
    Fraction,
    Llama,
    Machine,
    Mixture,
    Parallelism,
    Part,
    Quantized,
    Recipe,
    Steps,
    Tokens,
    Trained,
    Training,
    clean,
    distil,
    evolve,
    measure,
    optimizer,
    place,
    schedule,
    scheme,
    source,
)


def small_code() -> Trained:
    """A small code model."""
    return Trained(
        name="small-code",
        start=Llama(
            hidden_size=128,
            num_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        text=Corpus(
            name="python-stdlib",
            source=source.PythonStdlib(),
            clean=(clean.FixUnicode(), KeepLongLines(characters=4), clean.ExactDedup()),
            heldout=Fraction(0.05),
        ),
        tokenizer=ByteLevelBPE(vocab_size=2048),
        objective=CausalLM(sequence_length=256),
        training=Training(
            duration=Tokens(4_000_000),
            global_batch_size=16,
            optimizer=optimizer.AdamW(learning_rate=4e-3),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=8),
    )


def python() -> Corpus:
    """The standard library, as it is."""
    return Corpus(name="python", source=source.PythonStdlib())


def variants() -> Recipe:
    """The model, another run of it, one trained further on other text, and the smaller files of the first."""
    base = small_code()
    longer: Trained = evolve(base, name="small-code-longer", training__seed=8, training__duration=Steps(200))
    nested = evolve(base, name="small-code-nested", training=evolve(base.training, seed=9))
    books = Corpus(
        name="books",
        source=source.TextFiles(paths=("data/books/*.txt",)),
        heldout=source.TextFiles(paths=("data/heldout/*.txt",)),
    )
    further = Trained(
        name="small-code-further",
        start=base,
        text=Mixture(parts=(Part(corpus=books, weight=2), Part(corpus=python()))),
        objective=base.objective,
        training=base.training,
    )
    return Recipe(
        models=(
            base,
            longer,
            nested,
            further,
            Quantized(model=base, scheme=scheme.W4A16(group_size=64)),
            *(Quantized(model=each, scheme=scheme.W8A16()) for each in (base, further)),
            Distilled(name="taught", student=base, teacher=further, training=base.training, loss=distil.ReverseKL()),
        ),
        measures=(measure.Perplexity(max_tokens=50_000), measure.Samples(prompts=("for i in range(",)), Vocabulary()),
    )


def cluster() -> Machine:
    """A machine that has its text prepared by Ray."""
    return Machine(device="cuda", workers=8, text_on=place.Ray(address="auto"))
