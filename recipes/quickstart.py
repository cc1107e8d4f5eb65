from llmrecipe import *


def quickstart() -> Recipe:
    """A small code model trained on the Python standard library; minutes on two cores."""
    return Recipe(
        name="quickstart",
        corpus=Corpus(
            name="python-stdlib", source=PythonStdlib(), clean=(FixUnicode(), ExactDedup()), heldout_fraction=0.05
        ),
        tokenizer=ByteLevelBPE(vocab_size=4096),
        model=Llama(
            hidden_size=256,
            num_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            tie_word_embeddings=True,
        ),
        objective=CausalLM(sequence_length=256),
        training=Training(
            duration=Tokens(800_000),
            global_batch_size=32,
            optimizer=AdamW(learning_rate=1e-3),
            schedule=Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=4),
        compression=(Quantize(scheme=W4A16(group_size=64)),),
        evaluation=(
            Perplexity(),
            Samples(prompts=("def ", "import os\n", "class Test(")),
        ),
    )
