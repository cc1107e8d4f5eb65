"""The smallest recipe that goes through every kind of stage that every recipe has."""

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
    optimizer,
    scheme,
    source,
)

BOOKS = Corpus(name="books", source=source.TextFiles(paths=("data/books/**/*.txt",)))

BASE = Trained(
    name="tiny",
    start=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2),
    text=BOOKS,
    tokenizer=ByteLevelBPE(vocab_size=300),
    objective=CausalLM(sequence_length=32),
    training=Training(duration=Steps(20), global_batch_size=4, optimizer=optimizer.AdamW(learning_rate=1e-3)),
)

SMALLER = Quantized(model=BASE, scheme=scheme.W4A16(group_size=32), calibration_samples=8, seed=3)

RECIPE = Recipe(name="small", models=(BASE, SMALLER))
