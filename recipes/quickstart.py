from llmrecipe import *


def quickstart() -> Recipe:
    """A small code model trained on the Python standard library; minutes on two cores."""
    return Recipe(
        name="quickstart",
        corpus=Corpus(
            name="python-stdlib",
            source=PythonStdlib(),
            clean=(FixUnicode(), ExactDedup()),
            heldout_fraction=0.05,
        ),
        tokenizer=ByteLevelBPE(vocab_size=2048),
        model=Llama(
            hidden_size=128,
            num_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
        objective=CausalLM(sequence_length=256),
        training=Training(
            duration=Tokens(4_000_000),
            global_batch_size=16,
            optimizer=AdamW(learning_rate=4e-3),
            schedule=Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=8),
        compression=(Quantize(scheme=W4A16(group_size=64)),),
        evaluation=(
            Perplexity(max_tokens=50_000),
            Samples(prompts=("for i in range(", "if __name__ ==", "    with open(")),
        ),
    )
