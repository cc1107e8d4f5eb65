"""The smallest recipe that goes through every kind of stage."""

from llmrecipe import W4A16, AdamW, ByteLevelBPE, CausalLM, Corpus, Llama, Quantize, Recipe, Steps, TextFiles, Training

RECIPE = Recipe(
    name="tiny",
    corpus=Corpus(name="books", source=TextFiles(paths=("data/books/**/*.txt",))),
    tokenizer=ByteLevelBPE(vocab_size=300),
    model=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2),
    objective=CausalLM(sequence_length=32),
    training=Training(duration=Steps(20), global_batch_size=4, optimizer=AdamW(learning_rate=1e-3)),
    compression=(Quantize(scheme=W4A16(group_size=32), calibration_samples=8, seed=3),),
)
