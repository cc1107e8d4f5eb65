from llmrecipe import *


def bert_mlm() -> Recipe:
    """A small BERT of Python code, trained on the standard library; minutes on two cores.

    A model this small takes long to find out which neighbours to read, and until then knows little more than how often
    a token occurs. Short sequences, two wide heads and larger initial weights than BERT's make it find out soon.
    """
    return Recipe(
        name="bert-mlm",
        corpus=Corpus(
            name="python-stdlib",
            source=PythonStdlib(),
            clean=(FixUnicode(), ExactDedup()),
            heldout_fraction=0.05,
        ),
        tokenizer=WordPiece(vocab_size=2048),
        model=Bert(
            hidden_size=128,
            num_layers=4,
            num_attention_heads=2,
            max_position_embeddings=32,
            initializer_range=0.04,
        ),
        objective=MaskedLM(sequence_length=32, masking=WholeWords()),
        training=Training(
            duration=Tokens(5_000_000),
            global_batch_size=64,
            optimizer=AdamW(learning_rate=3e-3, beta2=0.98),
            schedule=Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=32),
        evaluation=(Perplexity(max_tokens=50_000), PseudoPerplexity(max_tokens=10_000)),
    )
