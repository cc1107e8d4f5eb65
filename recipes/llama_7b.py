"""A model of the size of Llama 2 7B."""

from llmrecipe import (
    ByteLevelBPE,
    CausalLM,
    Corpus,
    Fraction,
    Llama,
    Parallelism,
    Quantized,
    Recipe,
    Steps,
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


def base_7b() -> Trained:
    """A model of the size of Llama 2 7B (Touvron et al. 2023), with its published settings, on text of your own.

    Nobody has run it: its 64 ranks, each with a GPU, need more than one machine, and llmrecipe can't start those yet.
    Not Llama 2's are the text, the byte-level tokenizer and the layout.
    """
    return Trained(
        name="base-7b",
        start=Llama(
            hidden_size=4096,
            num_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            intermediate_size=11_008,
            max_position_embeddings=4096,
        ),
        text=Corpus(
            name="web",
            source=source.ParquetFiles(paths=("data/web/*.parquet",)),
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.001),
            shards=256,
        ),
        tokenizer=ByteLevelBPE(vocab_size=32_000),
        objective=CausalLM(sequence_length=4096),
        training=Training(
            duration=Tokens(2_000_000_000_000),
            global_batch_size=1024,
            optimizer=optimizer.AdamW(learning_rate=3e-4, eps=1e-5),
            schedule=schedule.Cosine(warmup=Steps(2000)),
            precision="bfloat16",
            validation_interval=1000,
        ),
        parallelism=Parallelism(data=8, tensor=4, pipeline=2, micro_batch_size=2, zero_stage=1),
    )


def llama_7b() -> Recipe:
    """The model as it is trained, and with 4-bit weights; plan it with `--machine gpu_node`."""
    base = base_7b()
    return Recipe(
        name="llama-7b",
        models=(base, Quantized(model=base, scheme=scheme.W4A16(), calibration_samples=512)),
        measures=(
            measure.Perplexity(max_tokens=10_000_000),
            measure.Samples(prompts=("The capital of France is", "Once upon a time")),
        ),
    )
