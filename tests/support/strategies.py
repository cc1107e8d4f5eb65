"""Recipes that can work: a small one, and Hypothesis strategies for any and their parts."""

import math
import re

import attrs
from hypothesis import strategies as st

from llmrecipe import (
    Anomalies,
    Bert,
    ByteLevelBPE,
    CausalLM,
    Corpus,
    Dropout,
    FillInTheMiddle,
    Fraction,
    Llama,
    Machine,
    MaskedLM,
    Mixture,
    ModernBert,
    MultiMaskLM,
    Parallelism,
    Part,
    PretrainedTokenizer,
    Quantized,
    Ratio,
    Recipe,
    Steps,
    Tokens,
    Trained,
    Training,
    Unigram,
    WordPiece,
    augment,
    clean,
    evolve,
    masking,
    measure,
    optimizer,
    place,
    schedule,
    scheme,
    source,
)
from llmrecipe.recipe.schema import members
from llmrecipe.sections import (
    AugmentSection,
    ExportSection,
    MeasureSection,
    MixSection,
    PrepareSection,
    QuantizeSection,
    ReportSection,
    TokenizerSection,
    TokenizeSection,
    TrainSection,
)

SMALL_MODEL = Trained(
    name="small-model",
    start=Llama(hidden_size=64, num_layers=2, num_attention_heads=4, num_key_value_heads=2),
    text=Corpus(name="stdlib", source=source.PythonStdlib()),
    tokenizer=ByteLevelBPE(vocab_size=512),
    objective=CausalLM(sequence_length=32),
    training=Training(duration=Steps(10), global_batch_size=4, optimizer=optimizer.AdamW(learning_rate=1e-3)),
)


def small(model=SMALL_MODEL, **changes):
    """The small recipe, of a model or what that is changed to: `small(text__shards=2)`."""
    model = evolve(model, **changes)
    return Recipe(
        name="small",
        models=(model, Quantized(model=model, scheme=scheme.W4A16(group_size=32))),
        measures=(measure.Perplexity(), measure.Samples(prompts=("def ",))),
    )


SMALL = small()


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,12}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
counts = st.integers(1, 64)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 1)
below_one = st.floats(0, 1, exclude_max=True)
positive = st.floats(0, 1e9, exclude_min=True)


def tuples(items, min_size=0):
    return st.lists(items, min_size=min_size, max_size=3).map(tuple)


paths = tuples(texts, 1)
url_fields = st.just("") | texts
sources = st.one_of(
    st.builds(source.PythonStdlib),
    st.builds(
        source.PythonPackages,
        packages=st.lists(st.sampled_from(["attrs==26.1.0", "a-b.c_d==0.1+local"]), min_size=1, unique=True).map(tuple),
    ),
    st.builds(source.TextFiles, paths=paths),
    st.builds(source.WarcFiles, paths=paths),
    *(
        st.builds(files, paths=paths, text_field=texts, url_field=url_fields)
        for files in (source.JsonlFiles, source.ParquetFiles, source.CsvFiles)
    ),
    st.builds(
        source.HubDataset,
        name=st.sampled_from(["a/b", "Some.Body_1/a-set"]),
        revision=st.text("0123456789abcdef", min_size=40, max_size=40),
        subset=url_fields,
        split=texts,
        text_field=texts,
        url_field=url_fields,
    ),
)
cleaners = tuples(
    st.one_of(
        st.builds(clean.FixUnicode),
        st.builds(clean.ExactDedup),
        st.builds(
            clean.GopherQuality,
            min_words=st.integers(1, 50),
            max_words=st.integers(50, 10**6),
            min_mean_word_length=st.floats(0.5, 3),
            max_mean_word_length=st.floats(3, 100),
            max_symbols_per_word=positive,
            max_bullet_lines=shares,
            max_ellipsis_lines=shares,
            min_alphabetic_words=shares,
            min_stop_words=st.integers(0, 8),
        ),
        st.builds(
            clean.GopherRepetition,
            max_duplicate_lines=shares,
            max_duplicate_paragraphs=shares,
            max_duplicate_line_characters=shares,
            max_duplicate_paragraph_characters=shares,
        ),
        st.builds(
            clean.C4Quality,
            min_sentences=counts,
            min_words_per_line=counts,
            max_word_length=counts,
            terminal_punctuation=st.booleans(),
            curly_brackets=st.booleans(),
        ),
        st.builds(
            clean.FineWebQuality,
            min_punctuated_lines=shares,
            max_short_lines=shares,
            short_line_length=counts,
            max_duplicate_line_characters=shares,
            max_newlines_per_word=positive,
        ),
        st.builds(clean.MaskPersonalData, emails=st.booleans(), ip_addresses=st.booleans()),
        st.builds(clean.LanguageFilter, languages=tuples(st.sampled_from(["en", "de", "zh", "als"]), 1), min_score=shares),
        st.builds(clean.RegexFilter, pattern=texts.map(re.escape)),
        st.builds(clean.LengthFilter, min_characters=st.integers(1, 99), max_characters=st.none() | st.integers(99, 10**9)),
        st.builds(clean.UrlBlocklist, domains=tuples(st.sampled_from(["example.com", "a-b.co.uk"])), words=st.just(("x9",))),
        st.builds(clean.MinHashDedup, ngram=counts, bands=st.integers(9, 64), threshold=st.floats(0.6, 0.95)),
        st.builds(clean.SentenceDedup, sentences=counts, min_words=counts, min_sentences=counts),
        st.builds(clean.Decontaminate, against=tuples(sources), heldout=st.just(True), ngram=counts),
    )
    # What changes texts has to stand before what compares them.
).map(lambda chosen: tuple(sorted(chosen, key=lambda cleaner: isinstance(cleaner, SPLITTING))))
bands = st.floats(0, 10).flatmap(lambda least: st.builds(augment.Band, least=st.just(least), most=st.floats(least, 100)))
kept = {"similarity": bands, "length_ratio": bands}
some = {"share": st.floats(0, 1, exclude_min=True), "seed": seeds}
hub_models = st.builds(augment.HubModel, name=st.just("owner/name"), revision=st.from_regex(r"[0-9a-f]{40}", fullmatch=True))
generating = {
    "decoding": st.builds(augment.BeamSearch, beams=counts)
    | st.builds(augment.Sampling, temperature=positive, top_p=st.floats(0, 1, exclude_min=True)),
    "piece_tokens": st.integers(8, 999),
    "max_new_tokens": counts,
    "batch_size": counts,
}
augmenters = st.lists(
    st.one_of(
        st.builds(augment.BackTranslate, there=texts, back=hub_models, **generating, **some, **kept),
        st.builds(augment.Paraphrase, model=texts | hub_models, prompt=st.just("So: {text}"), **generating, **some, **kept),
        st.builds(augment.JoinDocuments, documents=st.integers(2, 9), separator=texts, **some),
        st.builds(augment.ShuffleSpans, span=st.sampled_from(["sentence", "line", "paragraph"]), **some, **kept),
        st.builds(augment.TokenNoise, delete=st.floats(0.01, 1), insert=shares, swap=shares, **some, **kept),
    ),
    max_size=2,
    unique=True,
).map(tuple)
heldout_fractions = st.floats(0, 0.5, exclude_min=True)


def with_addresses_to_look_at(corpus):
    if isinstance(corpus.source, source.WarcFiles) or getattr(corpus.source, "url_field", ""):
        return corpus
    return attrs.evolve(corpus, clean=tuple(each for each in corpus.clean if not isinstance(each, clean.UrlBlocklist)))


corpora = st.builds(
    Corpus,
    name=names,
    source=sources,
    clean=cleaners,
    heldout_fraction=heldout_fractions,
    augment=augmenters,
    shards=counts,
).map(with_addresses_to_look_at)
mixtures = st.lists(corpora, min_size=1, max_size=3, unique_by=lambda corpus: corpus.name).flatmap(
    lambda parts: st.tuples(*(st.builds(Part, corpus=st.just(corpus), weight=st.floats(0.1, 10)) for corpus in parts))
)
masking_tokenizers = st.one_of(
    st.builds(WordPiece, vocab_size=st.integers(64, 9_999), lowercase=st.booleans(), character_coverage=shares),
    st.builds(PretrainedTokenizer, path=texts),
)
sentinels = st.lists(st.from_regex(r"<\|[a-z]{1,6}\|>", fullmatch=True), min_size=3, max_size=3, unique=True).map(tuple)


def special_tokenizers(special_tokens):
    return st.one_of(
        st.builds(ByteLevelBPE, vocab_size=st.integers(260, 9_999), end_of_text=texts, special_tokens=special_tokens),
        st.builds(
            Unigram,
            vocab_size=st.integers(303, 9_999),
            character_coverage=shares,
            end_of_text=texts,
            special_tokens=special_tokens,
        ),
    )


tokenizers = special_tokenizers(st.just(()) | sentinels) | masking_tokenizers
weight_decays = st.floats(0, 10)
no_decays = st.permutations(["norms", "biases", "embeddings"]).flatmap(
    lambda kinds: st.integers(0, 3).map(lambda count: tuple(kinds[:count]))
)
optimizers = st.builds(
    optimizer.AdamW,
    learning_rate=positive,
    beta1=below_one,
    beta2=below_one,
    eps=positive,
    weight_decay=weight_decays,
    no_decay=no_decays,
) | st.builds(
    optimizer.SGD,
    learning_rate=positive,
    momentum=st.floats(0, 1, exclude_min=True),
    nesterov=st.booleans(),
    weight_decay=weight_decays,
    no_decay=no_decays,
)
roundings = st.builds(scheme.GPTQ, dampening_frac=positive) | st.builds(scheme.RoundToNearest)
places = st.one_of(
    st.builds(place.Local),
    st.builds(
        place.Slurm,
        partition=texts,
        time_limit=st.sampled_from(["90", "8:00:00", "2-12"]),
        cpus_per_task=counts,
        memory_per_cpu_gb=counts,
        account=st.none() | texts,
        qos=st.none() | texts,
    ),
    st.builds(place.Ray, address=st.sampled_from([None, "head:6379"]), cpus_per_task=counts, memory_per_cpu_gb=counts),
)
runtimes = st.builds(
    Runtime,
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    execution=st.builds(Execution, workers=counts, on=places),
    checkpoint_interval=counts,
    keep_checkpoints=counts,
    log_interval=counts,
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
)


def divisors(number):
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def unsmoothed_schemes(group_sizes):
    return st.one_of(
        st.builds(scheme.W4A16, group_size=group_sizes, rounding=roundings),
        st.builds(scheme.W8A16, rounding=roundings),
        st.builds(scheme.FP8),
    )


def schemes(group_sizes):
    return unsmoothed_schemes(group_sizes) | st.builds(scheme.W8A8, smoothing_strength=shares, rounding=roundings)


@st.composite
def schedules(draw, steps):
    def phase(count):
        # A share is rounded up.
        return draw(st.sampled_from([Steps(count), Fraction(max(count - 0.5, 0) / steps)]))

    warmup = draw(st.integers(0, steps - 1))
    kind = draw(st.sampled_from([schedule.Constant, schedule.Linear, schedule.Cosine, schedule.InverseSquareRoot, schedule.WarmupStableDecay]))
    more = {}
    if kind not in (schedule.Constant, schedule.InverseSquareRoot):
        more["final"] = Fraction(draw(shares))
    if kind is schedule.WarmupStableDecay:
        more["decay"] = phase(draw(st.integers(1, steps - warmup)))
    return kind(warmup=phase(warmup), **more)


@st.composite
def trainings(draw, global_batch_size, sequence_length):
    steps = draw(st.integers(1, 1000))
    short = draw(st.integers(0, global_batch_size * sequence_length - 1))
    return Training(
        duration=draw(st.sampled_from([Steps(steps), Tokens(steps * global_batch_size * sequence_length - short)])),
        global_batch_size=global_batch_size,
        optimizer=draw(optimizers),
        schedule=draw(schedules(steps)),
        seed=draw(seeds),
        clip_grad_norm=draw(st.none() | positive),
        dropout=draw(st.builds(Dropout, residual=below_one, attention=below_one, embedding=below_one)),
        z_loss=draw(st.just(0.0) | positive),
        anomalies=draw(
            st.builds(
                Anomalies,
                action=st.sampled_from(["stop", "skip"]),
                spike_sigmas=st.none() | positive,
                window=st.integers(2, 1000),
            )
        ),
        precision=draw(st.sampled_from(["by_device", "float32", "bfloat16"])),
        validation_interval=draw(counts),
        validation_sequences=draw(counts),
        select=draw(st.sampled_from(["last", "best"])),
    )


@st.composite
def models(draw, tensor, kind):
    key_value_heads = tensor * draw(st.integers(1, 3))
    heads = key_value_heads * draw(st.integers(1, 3))
    width = tensor * draw(st.integers(1, 200))
    ratio = Ratio(draw(st.floats(0.5, 5)), multiple_of=tensor * draw(st.integers(1, 64)))
    shared = {
        "num_layers": draw(st.integers(1, 12)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.sampled_from([width, ratio])),
        "max_position_embeddings": 4096,
        "initializer_range": draw(positive),
        "make_vocab_size_divisible_by": tensor * draw(st.integers(1, 32)),
    }
    if kind is Bert:
        return Bert(hidden_size=heads * draw(st.integers(2, 128)), layer_norm_eps=draw(positive), **shared)
    shared |= {"hidden_size": heads * 2 * draw(st.integers(1, 64)), "rope_theta": draw(positive)}
    if kind is ModernBert:
        return ModernBert(layer_norm_eps=draw(positive), **shared)
    return Llama(
        num_key_value_heads=key_value_heads,
        rms_norm_eps=draw(positive),
        tie_word_embeddings=draw(st.booleans()),
        **shared,
    )


def fill_in_the_middle(length, tokenizer):
    special = getattr(tokenizer, "special_tokens", ())
    if length < 6 or not (special or isinstance(tokenizer, PretrainedTokenizer)):
        return st.none()
    names = dict(zip(("prefix_token", "middle_token", "suffix_token"), special, strict=False))
    named = {name: st.just(token) for name, token in names.items()}
    rates = st.floats(0, 1, exclude_min=True)
    return st.none() | st.builds(FillInTheMiddle, rate=rates, suffix_first_share=shares, **named)


@st.composite
def objectives(draw, length, kind, tokenizer):
    if kind is Llama:
        return CausalLM(
            sequence_length=length,
            restart_at_documents=draw(st.booleans()),
            fill_in_the_middle=draw(fill_in_the_middle(length, tokenizer)),
        )
    mask_share = draw(st.floats(0.001, 1))
    open_share = st.floats(0.001, 0.999)
    spans = st.builds(masking.Spans, success_probability=open_share, max_length=st.integers(1, length - 1))
    shared = {
        "sequence_length": length,
        "mask_rate": draw(open_share),
        "mask_share": mask_share,
        "random_share": draw(st.floats(0, 1 - mask_share)),
    }
    if draw(st.booleans()):
        return MultiMaskLM(masking=draw(spans), context_weight=draw(st.just(0.0) | positive), **shared)
    return MaskedLM(masking=draw(spans | st.builds(masking.SingleTokens) | st.builds(masking.WholeWords)), **shared)


def filled_by_nanotron(model, vocab_size, pipeline):
    """Whether every pipeline rank gets weights: the loop of nanotron.models.base.build_model, block by block."""
    matrices = 2 if isinstance(model, Bert) else 3
    layer = 4 * model.hidden_size**2 + matrices * model.feed_forward_size * model.hidden_size
    output = model.padded_vocab_size(vocab_size) * model.hidden_size
    costs = [0, *[layer] * model.num_layers, 0, output]
    thresholds = [sum(costs) * ((rank + 1) / pipeline) for rank in range(pipeline)]
    cumulative, rank, owners = 0, 0, set()
    for cost in costs:
        owners.add(rank)
        cumulative += cost
        if cumulative > thresholds[rank]:
            rank += 1
    return owners == set(range(pipeline))


@st.composite
def recipes(draw, kinds=(Llama, Bert, ModernBert)):
    kind = draw(st.sampled_from(kinds))
    tensor, data, micro = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    model, tokenizer = draw(models(tensor, kind)), draw(tokenizers if kind is Llama else masking_tokenizers)
    vocab_size = getattr(tokenizer, "vocab_size", 1)
    degrees = [d for d in range(1, min(4, model.num_layers) + 1) if filled_by_nanotron(model, vocab_size, d)]
    pipeline, schedule = draw(st.sampled_from(degrees)), draw(st.sampled_from(["1f1b", "afab"]))
    least = max(1, pipeline - 1) if schedule == "1f1b" else 1
    batch = data * micro * draw(st.integers(least, least + 3))
    length = tensor * draw(st.integers(2, 100))
    groups = divisors(math.gcd(model.hidden_size, model.feed_forward_size))
    of_kind = {Llama: schemes, Bert: unsmoothed_schemes, ModernBert: lambda _: st.builds(scheme.FP8)}[kind]
    scheme = of_kind(st.sampled_from(groups))
    quantize = st.builds(Quantize, scheme=scheme, calibration_samples=counts, seed=seeds)
    corpus = draw(corpora | mixtures.map(lambda parts: Mixture(parts=parts)))
    shares = [part.weight for part in corpus.parts]
    enough = st.integers(length * math.ceil(sum(shares) / min(shares)), 10**6)
    measures = (measure.Perplexity(max_tokens=draw(enough)),)
    if kind is Llama:
        measures += draw(tuples(st.builds(measure.Samples, prompts=tuples(texts, 1), max_new_tokens=counts)))
    elif draw(st.booleans()):
        measures += (measure.PseudoPerplexity(max_tokens=draw(enough)),)
    return Recipe(
        name=draw(names),
        corpus=corpus,
        tokenizer=tokenizer,
        model=model,
        objective=draw(objectives(length, kind, tokenizer)),
        training=draw(trainings(batch, length)),
        parallelism=Parallelism(
            data=data,
            tensor=tensor,
            pipeline=pipeline,
            micro_batch_size=micro,
            zero_stage=draw(st.sampled_from([0, 1])),
            tensor_parallel_mode=draw(st.sampled_from(["all_reduce", "reduce_scatter"])),
            pipeline_schedule=schedule,
            recompute_activations=draw(st.booleans()),
            threads_per_rank=draw(counts),
            bucket_size_mb=draw(counts),
            async_tensor_parallel=tensor > 1 and draw(st.booleans()),
        ),
        compression=draw(st.just(()) | quantize.map(lambda step: (step,))),
        evaluation=measures,
        runtime=draw(runtimes),
    )


revisions = st.integers(1, 9)
sections = st.one_of(
    st.builds(
        PrepareSection,
        source=sources,
        clean=cleaners,
        heldout_fraction=heldout_fractions,
        shards=counts,
        revision=revisions,
    ),
    st.builds(AugmentSection, augment=augmenters, revision=revisions),
    st.builds(TokenizerSection, tokenizer=tokenizers, revision=revisions),
    st.builds(TokenizeSection, revision=revisions),
    recipes().map(
        lambda recipe: PretrainSection(
            model=recipe.model,
            objective=recipe.objective,
            training=recipe.training,
            parallelism=recipe.parallelism,
            weights=tuple(float(part.weight) for part in recipe.corpus.parts),
        )
    ),
    st.builds(ExportSection, logits_tolerance=positive, revision=revisions),
    st.builds(
        QuantizeSection,
        scheme=schemes(counts),
        calibration_samples=counts,
        sequence_length=st.integers(2, 64),
        seed=seeds,
    ),
    recipes().map(lambda recipe: EvaluateSection(measures=recipe.evaluation, objective=recipe.objective, revision=2)),
)
