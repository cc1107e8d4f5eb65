"""A small code model of the Python standard library, and how much of it 4-bit weights keep."""

from llmrecipe import (
    ByteLevelBPE,
    CausalLM,
    Corpus,
    Fraction,
    Llama,
    Parallelism,
    Quantized,
    Recipe,
    Tokens,
    Trained,
    Training,
    clean,
    measure,
    optimizer,
    schedule,
    scheme,
    source,
)


def small_code() -> Trained:
    """A small code model trained on the Python standard library; minutes on two cores."""
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
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.05),
        ),
        tokenizer=ByteLevelBPE(vocab_size=2048),
        objective=CausalLM(sequence_length=256),
        training=Training(
            duration=Tokens(4_000_000),
            global_batch_size=16,
            optimizer=optimizer.Muon(learning_rate=8e-3),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=8),
    )


def quickstart() -> Recipe:
    """The model as it is trained, and with 4-bit weights."""
    base = small_code()
    return Recipe(
        name="quickstart",
        models=(base, Quantized(model=base, scheme=scheme.W4A16(group_size=64))),
        measures=(
            measure.Perplexity(max_tokens=50_000),
            measure.Samples(prompts=("for i in range(", "if __name__ ==", "    with open(")),
        ),
    )
