"""A small BERT of Python code."""

from llmrecipe import (
    Bert,
    Corpus,
    Fraction,
    MaskedLM,
    Parallelism,
    Recipe,
    Tokens,
    Trained,
    Training,
    WordPiece,
    clean,
    masking,
    measure,
    optimizer,
    schedule,
    source,
)


def small_bert() -> Trained:
    """A small BERT, trained on the standard library; minutes on two cores.

    A model this small takes long to find out which neighbours to read, and until then knows little more than how often
    a token occurs. Short sequences, two wide heads and larger initial weights than BERT's make it find out soon.
    """
    return Trained(
        name="small-bert",
        start=Bert(
            hidden_size=128,
            num_layers=4,
            num_attention_heads=2,
            max_position_embeddings=32,
            initializer_range=0.04,
        ),
        text=Corpus(
            name="python-stdlib",
            source=source.PythonStdlib(),
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.05),
        ),
        tokenizer=WordPiece(vocab_size=2048),
        objective=MaskedLM(sequence_length=32, masking=masking.WholeWords()),
        training=Training(
            duration=Tokens(5_000_000),
            global_batch_size=64,
            optimizer=optimizer.AdamW(learning_rate=3e-3, beta2=0.98),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=32),
    )


def bert_mlm() -> Recipe:
    """The model, measured by both perplexities of masked tokens."""
    return Recipe(
        name="bert-mlm",
        models=(small_bert(),),
        measures=(measure.Perplexity(max_tokens=50_000), measure.PseudoPerplexity(max_tokens=10_000)),
    )
