from llmrecipe import *


def llama_7b() -> Recipe:
    """A recipe of the size of Llama 2 7B (Touvron et al. 2023), with its published settings, on text of your own.

    Nobody has run it: its 64 ranks, each with a GPU, need more than one machine, and llmrecipe can't start those yet.
    Not Llama 2's are the text, the byte-level tokenizer and the layout.
    """
    return Recipe(
        name="llama-7b",
        corpus=Corpus(
            name="web",
            source=ParquetFiles(paths=("data/web/*.parquet",)),
            clean=(FixUnicode(), ExactDedup()),
            heldout_fraction=0.001,
            shards=256,
        ),
        tokenizer=ByteLevelBPE(vocab_size=32_000),
        model=Llama(
            hidden_size=4096,
            num_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            intermediate_size=11_008,
            max_position_embeddings=4096,
        ),
        objective=CausalLM(sequence_length=4096),
        training=Training(
            duration=Tokens(2_000_000_000_000),
            global_batch_size=1024,
            optimizer=AdamW(learning_rate=3e-4, eps=1e-5),
            schedule=Cosine(warmup=Steps(2000)),
            validation_interval=1000,
        ),
        parallelism=Parallelism(data=8, tensor=4, pipeline=2, micro_batch_size=2, zero_stage=1),
        compression=(Quantize(scheme=W4A16(), calibration_samples=512),),
        evaluation=(
            Perplexity(max_tokens=10_000_000),
            Samples(prompts=("The capital of France is", "Once upon a time")),
        ),
        runtime=Runtime(execution=Execution(workers=64), checkpoint_interval=1000),
    )
