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
    Distilled,
    Dropout,
    Epochs,
    FillInTheMiddle,
    FineTuned,
    FineTuning,
    Fraction,
    Llama,
    Llama3RopeScaling,
    Machine,
    MaskedLM,
    Mistral,
    Mixture,
    ModernBert,
    MultiMaskLM,
    Parallelism,
    Part,
    PretrainedModel,
    PretrainedTokenizer,
    Pruned,
    Quantized,
    Qwen2,
    Qwen3,
    Ratio,
    Recipe,
    Release,
    Steps,
    Tokens,
    Trained,
    Training,
    Unigram,
    WordPiece,
    adapter,
    augment,
    clean,
    distil,
    evolve,
    gate,
    masking,
    measure,
    optimizer,
    place,
    prune,
    schedule,
    scheme,
    source,
    task,
)
from llmrecipe.recipe.floats import Microscaled
from llmrecipe.recipe.integers import WeightsOnly
from llmrecipe.recipe.kinds import Scheme
from llmrecipe.recipe.overlap_checks import overlap
from llmrecipe.recipe.texts import common_text
from llmrecipe.sections import (
    AugmentSection,
    DistilSection,
    ExamplesSection,
    ExportSection,
    FineTuneSection,
    HessiansSection,
    ImportSection,
    MeasureSection,
    MixSection,
    PredictSection,
    PrepareSection,
    PruneSection,
    QuantizeSection,
    ReleaseSection,
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


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
counts = st.integers(1, 64)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 1)
below_one = st.just(0.0) | st.floats(1e-38, 0.9999999)
positive = st.floats(1e-38, 1_000)
up_to_one = st.floats(1e-38, 1)


def tuples(items, min_size=0):
    return st.lists(items, min_size=min_size, max_size=3).map(tuple)


paths = tuples(texts, 1)
evaluations = st.builds(
    measure.LMEval,
    tasks=st.lists(texts, min_size=1, unique=True).map(tuple),
    folder=texts,
    num_fewshot=st.none() | counts,
    limit=st.none() | counts,
    seed=seeds,
)
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
cleaners = st.lists(
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
        st.builds(
            clean.LanguageFilter, languages=tuples(st.sampled_from(["en", "de", "zh", "als"]), 1), min_score=shares
        ),
        st.builds(clean.RegexFilter, pattern=texts.map(re.escape)),
        st.builds(
            clean.LengthFilter, min_characters=st.integers(1, 99), max_characters=st.none() | st.integers(99, 10**9)
        ),
        st.builds(
            clean.UrlBlocklist, domains=tuples(st.sampled_from(["example.com", "a-b.co.uk"])), words=st.just(("x9",))
        ),
        st.builds(clean.MinHashDedup, ngram=counts, bands=st.integers(9, 64), threshold=st.floats(0.6, 0.95)),
        st.builds(clean.SentenceDedup, sentences=counts, min_words=counts, min_sentences=counts),
        st.builds(clean.Decontaminate, against=tuples(sources), heldout=st.just(True), ngram=counts),
    ),
    max_size=6,
    # What changes texts has to stand before what compares them.
).map(lambda chosen: tuple(sorted(chosen, key=lambda cleaner: cleaner.needs_split)))
bands = st.floats(0, 10).flatmap(
    lambda least: st.builds(augment.Band, least=st.just(least), most=st.floats(least, 100))
)
kept = {"similarity": bands, "length_ratio": bands}
some = {"share": st.floats(1e-38, 1), "seed": seeds}
hub_models = st.builds(augment.HubModel, name=st.just("owner/name"), revision=st.sampled_from(["0" * 40, "1f" * 20]))
generating = {
    "decoding": st.builds(augment.BeamSearch, beams=counts)
    | st.builds(augment.Sampling, temperature=positive, top_p=st.floats(1e-38, 1)),
    "piece_tokens": st.integers(8, 999),
    "max_new_tokens": counts,
    "batch_size": counts,
}
augmenters = st.lists(
    st.one_of(
        st.builds(augment.BackTranslate, there=texts, back=hub_models, **generating, **some, **kept),
        st.builds(augment.Paraphrase, model=texts | hub_models, prompt=st.just("So: {text}"), **generating, **some),
        st.builds(augment.JoinDocuments, documents=st.integers(2, 9), separator=texts, **some),
        st.builds(augment.ShuffleSpans, span=st.sampled_from(["sentence", "line", "paragraph"]), **some, **kept),
        st.builds(augment.TokenNoise, delete=st.floats(0.01, 1), insert=shares, swap=shares, **some, **kept),
    ),
    max_size=2,
    unique=True,
).map(tuple)
heldouts = st.builds(Fraction, st.floats(0, 0.5, exclude_min=True)) | sources


def with_addresses_to_look_at(cleaners, origin):
    return tuple(each for each in cleaners if origin.has_addresses or not each.reads_addresses)


ends_of_text = texts.map(lambda text: f"<|a{text}|>")
sentinels = st.permutations(["<|a|>", "<pre>", "<|fim_middle|>", "[x y]"]).map(lambda tokens: tuple(tokens[:3]))
masking_tokenizers = st.one_of(
    st.builds(WordPiece, vocab_size=st.integers(64, 9_999), lowercase=st.booleans(), character_coverage=shares),
    st.builds(PretrainedTokenizer, path=texts),
)
tokenizers = st.one_of(
    st.builds(
        ByteLevelBPE,
        vocab_size=st.integers(260, 9_999),
        end_of_text=ends_of_text,
        special_tokens=st.just(()) | sentinels,
    ),
    st.builds(
        Unigram,
        vocab_size=st.integers(303, 9_999),
        character_coverage=shares,
        end_of_text=ends_of_text,
        special_tokens=st.just(()) | sentinels,
    ),
    masking_tokenizers,
)
weight_decays = st.just(0.0) | st.floats(1e-38, 10)
no_decays = st.permutations(["norms", "biases", "embeddings"]).flatmap(
    lambda kinds: st.integers(0, 3).map(lambda count: tuple(kinds[:count]))
)
momenta = st.floats(1e-38, 0.9999999)
of_optimizers = {"learning_rate": positive, "weight_decay": weight_decays, "no_decay": no_decays}
of_adam = of_optimizers | {"beta1": below_one, "beta2": below_one, "eps": up_to_one}
optimizers = st.one_of(
    st.builds(optimizer.AdamW, **of_adam),
    st.builds(optimizer.Muon, momentum=momenta, **of_adam),
    st.builds(optimizer.SGD, momentum=momenta, nesterov=st.booleans(), **of_optimizers),
)
roundings = st.one_of(
    st.builds(scheme.GPTQ, dampening_frac=up_to_one, activation_order=st.booleans()),
    st.builds(scheme.AWQ, grid_points=st.integers(3, 1000)),
    st.builds(scheme.AutoRound, iterations=counts),
    st.builds(scheme.RoundToNearest),
)
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
machines = st.builds(
    Machine,
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    workers=counts,
    text_on=places,
    checkpoint_interval=counts,
    keep_checkpoints=counts,
    log_interval=counts,
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
    events=st.sampled_from([(), ("tensorboard",), ("tensorboard", "wandb")]),
)


def divisors(number):
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


SCHEMES = tuple(word for name in scheme.__all__ if issubclass(word := getattr(scheme, name), Scheme))


def one_scheme(draw, cls, network=SMALL_MODEL.network):
    """A scheme of a class that a network can have, with a group that fits."""
    group_sizes = divisors(math.gcd(*network.quantized_widths.values()))
    how = draw(roundings)
    if network.unfit_for_smoothing and isinstance(how, scheme.AWQ):
        how = scheme.RoundToNearest()
    if isinstance(how, scheme.AutoRound) and (network.reads_both_sides or not issubclass(cls, WeightsOnly)):
        how = scheme.RoundToNearest()
    observers = ["minmax", "mse"] if cls is scheme.FP8Block else ["minmax", "mse", "imatrix_mse"]
    more = {"rounding": how, "observer": draw(st.sampled_from(observers))}
    fields = attrs.fields_dict(cls)
    if "group_size" in fields:
        more["group_size"] = draw(st.none() | st.sampled_from(group_sizes))
    if "block_size" in fields:
        more["block_size"] = draw(st.sampled_from(group_sizes))
    if "symmetric" in fields:
        more["symmetric"] = isinstance(how, scheme.AutoRound) or draw(st.booleans())
    if "activations" in fields:
        more["activations"] = draw(st.sampled_from(["dynamic", "static"]))
    if "smoothing_strength" in fields:
        is_unfit = network.unfit_for_smoothing or isinstance(how, scheme.AWQ)
        more["smoothing_strength"] = None if is_unfit else draw(st.none() | shares)
    return cls(**more)


def fits(cls, network):
    """Whether a network can have schemes of a class."""
    widths = network.quantized_widths.values()
    is_divided = not issubclass(cls, Microscaled) or all(width % cls.group_size == 0 for width in widths)
    return is_divided and not issubclass(cls, tuple(network.unfit_schemes))


NVFP4S = (scheme.NVFP4, scheme.NVFP4A16)
JOINED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
"""Layers that have NVFP4 together or not at all."""


def overrides(draw, rest, network):
    """Some, each for the layers of a name, rounded as the rest is; a name is left to that."""
    names = sorted({name.rpartition(".")[2] for name in network.quantized_layers})
    names = [name for name in names if not (isinstance(rest, NVFP4S) and name in JOINED)]
    words, count = [], draw(st.integers(0, len(names) - 1))
    learns = isinstance(rest.rounding, scheme.AutoRound)
    fitting = [cls for cls in SCHEMES if fits(cls, network) and (issubclass(cls, WeightsOnly) or not learns)]
    classes = draw(st.permutations(fitting))
    for name, cls in zip(draw(st.permutations(names))[:count], classes, strict=False):
        other = one_scheme(draw, scheme.FP8 if cls in NVFP4S and name in JOINED else cls, network)
        other = evolve(other, rounding=rest.rounding, **({"symmetric": True} if learns else {}))
        if isinstance(other, scheme.W8A8):
            other = evolve(other, smoothing_strength=None)
        layers = draw(st.sampled_from([name, f"*.{name}"]))
        words.append(scheme.Override(layers=layers, scheme=draw(st.sampled_from([None, other, other]))))
    return tuple(words)


schemes = st.composite(lambda draw: one_scheme(draw, draw(st.sampled_from(SCHEMES))))()


@st.composite
def narrowings(draw, network):
    """Widths that a decoder can have in place of its own, of more than one neuron."""
    whole = network.num_key_value_heads
    groups = draw(st.none() | st.integers(1, whole - 1)) if whole > 1 else None
    # transformers' Llama has a width for each head that is left.
    step = network.num_attention_heads // whole * (groups or whole) if isinstance(network, Llama) else 1
    fewer = range(max(step, 2), network.hidden_size, step)
    widths = st.sampled_from(fewer) if fewer else st.none()
    return prune.Width(
        hidden_size=draw(widths if network.hidden_size % step else st.none() | widths),
        intermediate_size=draw(st.integers(1, network.feed_forward_size - 1)),
        num_key_value_heads=groups,
    )


@st.composite
def prunings(draw, network):
    """What can be left out of a network."""
    sizes = [size for size in divisors(math.gcd(*network.quantized_widths.values())) if size > 1]
    patterns = st.sampled_from(sizes).flatmap(
        lambda of: st.builds(prune.Pattern, keep=st.integers(1, of - 1), of=st.just(of))
    )
    # A weight of each row at least.
    shares = st.floats(1 / min(network.quantized_widths.values()), 1, exclude_max=True)
    layers = network.num_layers
    per_layer = st.lists(st.just(0.0) | shares, min_size=layers, max_size=layers).filter(any).map(tuple)
    amounts = (
        shares
        | st.builds(prune.Measured, share=shares)
        | st.builds(prune.PerLayer, shares=per_layer)
        | (patterns if sizes else st.nothing())
    )
    kinds = [prune.Magnitude, prune.Wanda, prune.SparseGPT]
    if not network.reads_both_sides:
        kinds += [prune.Layers] * (network.num_layers > 1) + [prune.Width] * (network.feed_forward_size > 1)
    cls = draw(st.sampled_from(kinds))
    if cls is prune.Layers:
        left_out = draw(st.sampled_from(["similar", "last"]))
        return cls(num_layers=draw(st.integers(1, network.num_layers - 1)), left_out=left_out)
    if cls is prune.Width:
        return draw(narrowings(network))
    more = {"dampening_frac": draw(up_to_one)} if cls is prune.SparseGPT else {}
    return cls(sparsity=draw(amounts), **more)


@st.composite
def schedules(draw, steps):
    def phase(count):
        # A share is rounded up.
        return draw(st.sampled_from([Steps(count), Fraction(max(count - 0.5, 0) / steps)]))

    warmup = draw(st.integers(0, steps - 1))
    kind = draw(st.sampled_from([getattr(schedule, name) for name in schedule.__all__]))
    more = {}
    if kind not in (schedule.Constant, schedule.InverseSquareRoot):
        more["final"] = Fraction(draw(shares))
    if kind is schedule.WarmupStableDecay:
        more["decay"] = phase(draw(st.integers(1, steps - warmup)))
    return kind(warmup=phase(warmup), **more)


dropouts = st.builds(Dropout, residual=below_one, attention=below_one, embedding=below_one)
anomalies = st.builds(
    Anomalies,
    action=st.sampled_from(["stop", "skip"]),
    spike_sigmas=st.none() | positive,
    window=st.integers(2, 1000),
)


@st.composite
def trainings(draw, global_batch_size, sequence_length, parameters="all"):
    steps = draw(st.integers(1, 1000))
    short = draw(st.integers(0, global_batch_size * sequence_length - 1))
    return Training(
        duration=draw(
            st.sampled_from(
                [Steps(steps), Epochs(steps / 2), Tokens(steps * global_batch_size * sequence_length - short)]
            )
        ),
        global_batch_size=global_batch_size,
        optimizer=draw(optimizers),
        schedule=draw(schedules(steps)),
        seed=draw(seeds),
        clip_grad_norm=draw(st.none() | positive),
        dropout=draw(dropouts),
        z_loss=draw(st.just(0.0) | positive),
        parameters=parameters,
        anomalies=draw(anomalies),
        precision=draw(st.sampled_from(["float32", "bfloat16"])),
        validation_interval=draw(counts),
        validation_sequences=draw(counts),
        select=draw(st.sampled_from(["last", "best"])),
    )


@st.composite
def adapters(draw, network):
    """Adapters of some of the layers of such a network."""
    shapes = network.inner_layers
    names = sorted({name.rpartition(".")[2] for name in shapes})
    return draw(st.sampled_from([adapter.LoRA, adapter.DoRA]))(
        rank=draw(st.integers(1, min(map(min, shapes.values())))),
        alpha=draw(st.floats(0.1, 100)),
        dropout=draw(below_one),
        layers=draw(st.just(("*",)) | st.lists(st.sampled_from(names), min_size=1, unique=True).map(tuple)),
        keep=draw(st.booleans()),
    )


@st.composite
def fine_tunings(draw, global_batch_size, network=None):
    """Fine-tunings of so many examples a step, with adapters of a network."""
    return FineTuning(
        adapter=None if network is None else draw(st.none() | adapters(network)),
        epochs=draw(st.floats(0.01, 100)),
        global_batch_size=global_batch_size,
        optimizer=draw(optimizers.filter(lambda each: not isinstance(each, optimizer.Muon))),
        schedule=draw(schedules(1000)),
        layer_decay=draw(up_to_one),
        average_decay=draw(st.none() | below_one),
        dropout=draw(st.none() | below_one),
        class_weights=draw(st.sampled_from([None, "balanced"])),
        early_stopping=draw(st.none() | counts),
        select=draw(st.sampled_from(["best", "last"])),
        group_by_length=draw(st.booleans()),
        seed=draw(seeds),
        clip_grad_norm=draw(st.none() | positive),
        precision=draw(st.sampled_from(["float32", "bfloat16"])),
    )


divergences = st.one_of(
    st.builds(cls, temperature=positive) for cls in (distil.ForwardKL, distil.ReverseKL, distil.JensenShannon)
)


hidden_states = st.builds(distil.HiddenStates, weight=positive)
stored = st.builds(distil.Stored, top_k=st.integers(1, 64))


@st.composite
def distillations(draw, global_batch_size, sequence_length):
    """Trainings that transformers' Trainer can do."""
    return evolve(
        draw(trainings(global_batch_size, sequence_length)),
        optimizer=draw(optimizers.filter(lambda each: not isinstance(each, optimizer.Muon))),
        dropout=Dropout(),
        z_loss=0.0,
        anomalies=Anomalies(window=draw(st.integers(2, 100))),
        precision=draw(st.sampled_from(["float32", "bfloat16"])),
        select="last",
    )


NETWORKS = (Llama, Mistral, Qwen2, Qwen3, Bert, Bert, ModernBert, ModernBert)

scalings = st.builds(
    Llama3RopeScaling,
    factor=st.floats(1, 64),
    low_freq_factor=st.floats(0.5, 2),
    high_freq_factor=st.floats(3, 8),
    original_max_position_embeddings=counts,
)


@st.composite
def networks(draw, kind):
    tensor = draw(st.integers(1, 4))
    key_value_heads = tensor * draw(st.integers(1, 3))
    heads = key_value_heads * draw(st.integers(1, 3))
    # Some have widths that the groups of every scheme divide.
    step = draw(st.sampled_from([1, 32]))
    width = step * tensor * draw(st.integers(1, 200))
    ratio = Ratio(draw(st.floats(0.5, 5)), multiple_of=step * tensor * draw(st.integers(1, 64)))
    shared = {
        "num_layers": draw(st.integers(1, 12)),
        "num_attention_heads": heads,
        "intermediate_size": draw(st.sampled_from([width, ratio])),
        "max_position_embeddings": 4096,
        "initializer_range": draw(st.floats(1e-38, 1)),
        "make_vocab_size_divisible_by": tensor * draw(st.integers(1, 32)),
    }
    if kind is Bert:
        segments = draw(st.integers(1, 3))
        width = step * heads * draw(st.integers(2, 128))
        return Bert(hidden_size=width, layer_norm_eps=draw(up_to_one), type_vocab_size=segments, **shared)
    shared |= {"hidden_size": step * heads * 2 * draw(st.integers(1, 64)), "rope_theta": draw(positive)}
    if kind is ModernBert:
        return ModernBert(
            layer_norm_eps=draw(up_to_one),
            local_attention=draw(st.none() | st.integers(2, 256)),
            global_attn_every_n_layers=draw(st.integers(1, 4)),
            local_rope_theta=draw(positive),
            **shared,
        )
    head_dim = draw(st.none() | st.integers(1, 64).map(lambda half: 2 * half)) if step == 1 else None
    if head_dim is not None:
        # transformers' Llama has a width for each head, whatever theirs is.
        shared["hidden_size"] = (heads if kind is Llama else 1) * draw(st.integers(2, 999))
    if kind is Mistral:
        shared["sliding_window"] = draw(st.none() | counts)
    return kind(
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        rope_scaling=draw(st.none() | scalings),
        rms_norm_eps=draw(up_to_one),
        tie_word_embeddings=draw(st.booleans()),
        **shared,
    )


@st.composite
def objectives(draw, length, network, tokenizer):
    if not network.reads_both_sides:
        special = getattr(tokenizer, "special_tokens", ())
        rearranged = length >= 6 and (special or isinstance(tokenizer, PretrainedTokenizer)) and draw(st.booleans())
        names = dict(zip(("prefix_token", "middle_token", "suffix_token"), special, strict=False))
        rate = st.floats(1e-38, 1)
        return CausalLM(
            sequence_length=length,
            restart_at_documents=draw(st.booleans()),
            fill_in_the_middle=FillInTheMiddle(rate=draw(rate), suffix_first_share=draw(shares), **names)
            if rearranged
            else None,
        )
    mask_share = draw(st.floats(0.001, 1))
    open_share = st.floats(0.001, 0.999)
    spans = masking.Spans(success_probability=draw(open_share), max_length=draw(st.integers(1, length - 1)))
    shared = {
        "sequence_length": length,
        "mask_rate": draw(open_share),
        "mask_share": mask_share,
        "random_share": draw(st.floats(0, 1 - mask_share)),
    }
    if draw(st.booleans()):
        return MultiMaskLM(masking=spans, context_weight=draw(st.just(0.0) | positive), **shared)
    return MaskedLM(masking=draw(st.sampled_from([spans, masking.SingleTokens(), masking.WholeWords()])), **shared)


def filled_by_nanotron(network, vocab_size, pipeline):
    """Whether every pipeline rank gets weights: the loop of nanotron.models.base.build_model, block by block."""
    matrices = 2 if isinstance(network, Bert) else 3
    layer = 4 * network.num_attention_heads * network.head_size * network.hidden_size
    layer += matrices * network.feed_forward_size * network.hidden_size
    output = network.padded_vocab_size(vocab_size) * network.hidden_size
    costs = [0, *[layer] * network.num_layers, 0, output]
    thresholds = [sum(costs) * ((rank + 1) / pipeline) for rank in range(pipeline)]
    cumulative, rank, owners = 0, 0, set()
    for cost in costs:
        owners.add(rank)
        cumulative += cost
        if cumulative > thresholds[rank]:
            rank += 1
    return owners == set(range(pipeline))


_NAMES = ("a", "Web", "9", "small_code", "x__")


class World:
    """What recipes are drawn from: values that they may share, each with a name of its own."""

    def __init__(self, draw, kinds, only_texts=()):
        self.draw = draw
        self.kinds = kinds
        self.names = set()
        self.only_texts = only_texts
        self.corpora = []
        self.texts = []
        self.models = []
        self.tasks = []
        self.measures = []

    def fresh(self):
        name = f"{self.draw(st.sampled_from(_NAMES))}{len(self.names)}"
        self.names.add(name)
        return name

    def named(self, value):
        """`value` with the name that it derives, if that is free, or one of its own."""
        if value.name in self.names or self.draw(st.integers(0, 2)) == 0:
            return evolve(value, name=self.fresh())
        self.names.add(value.name)
        return value

    def one_of(self, known, make, chance=2):
        """One of the known values, once in a while, or a new one."""
        if known and self.draw(st.integers(0, chance)) == 0:
            return self.draw(st.sampled_from(known))
        known.append(make())
        return known[-1]

    def text(self):
        return (
            self.draw(st.sampled_from(self.only_texts)) if self.only_texts else self.one_of(self.texts, self.new_text)
        )

    def new_text(self):
        if self.draw(st.integers(0, 3)):
            return self.one_of(self.corpora, self.new_corpus)
        parts = {}
        for _ in range(self.draw(st.integers(1, 3))):
            corpus = self.one_of(self.corpora, self.new_corpus)
            parts[corpus.name] = Part(corpus=corpus, weight=self.draw(st.floats(0.1, 10)))
        return self.named(Mixture(parts=tuple(parts.values())))

    def new_corpus(self):
        draw, origin = self.draw, self.draw(sources)
        heldout = draw(heldouts)
        corpus = Corpus(
            name=self.fresh(),
            source=origin,
            clean=with_addresses_to_look_at(draw(cleaners), origin),
            heldout=Fraction(0.1) if heldout == origin else heldout,
            augment=tuple(map(self.asking, draw(augmenters))),
            shards=draw(counts),
        )
        # Instead of one that holds out what is learned from in another.
        return next((each for each in self.corpora if overlap(each, corpus) or overlap(corpus, each)), corpus)

    def asking(self, augmenter):
        """The augmenter; one that paraphrases may ask a model that is made here."""
        writers = [model for model in self.models if not model.objective.is_masked and model.task is None]
        if not isinstance(augmenter, augment.Paraphrase) or not writers or not self.draw(st.booleans()):
            return augmenter
        return evolve(augmenter, model=self.draw(st.sampled_from(writers)))

    def new_trained(self, start=None):
        draw, text = self.draw, self.text()
        network = draw(networks(draw(st.sampled_from(self.kinds)))) if start is None else start.network
        resized = isinstance(start, PretrainedModel) and draw(st.booleans())
        tokenizer = self.tokenizer(network, text) if start is None or resized else None
        vocabulary = (tokenizer or start.vocabulary).origin
        sizes = [*network.shared_by_tensor_ranks.values(), network.make_vocab_size_divisible_by]
        tensor = draw(st.sampled_from([degree for degree in range(1, 5) if math.gcd(*sizes) % degree == 0]))
        data, micro = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        vocab_size = getattr(vocabulary, "vocab_size", 1)
        degrees = [d for d in range(1, min(4, network.num_layers) + 1) if filled_by_nanotron(network, vocab_size, d)]
        pipeline, pipeline_schedule = draw(st.sampled_from(degrees)), draw(st.sampled_from(["1f1b", "afab"]))
        least = max(1, pipeline - 1) if pipeline_schedule == "1f1b" else 1
        batch = data * micro * draw(st.integers(least, least + 3))
        length = tensor * draw(st.integers(2, 100))
        return Trained(
            name=self.fresh(),
            start=start or network,
            text=text,
            objective=draw(objectives(length, network, vocabulary)),
            training=draw(trainings(batch, length, self.learning(network))),
            tokenizer=tokenizer,
            resize_embeddings=resized,
            parallelism=Parallelism(
                data=data,
                tensor=tensor,
                pipeline=pipeline,
                micro_batch_size=micro,
                zero_stage=draw(st.sampled_from([0, 1])),
                tensor_parallel_mode=draw(st.sampled_from(["all_reduce", "reduce_scatter"])),
                pipeline_schedule=pipeline_schedule,
                recompute_activations=draw(st.booleans()),
                threads_per_rank=draw(counts),
                bucket_size_mb=draw(counts),
                async_tensor_parallel=tensor > 1 and draw(st.booleans()),
            ),
        )

    def learning(self, network):
        return "all" if getattr(network, "tie_word_embeddings", False) else self.draw(st.sampled_from(["all", "head"]))

    def tokenizer(self, network, text):
        """A tokenizer for a model with this network, of a name that no other has."""
        fitting = [
            m for m in self.models if m.vocabulary.origin.has_mask_token is not False or not network.reads_both_sides
        ]
        if fitting and self.draw(st.integers(0, 3)) == 0:
            return self.named(PretrainedTokenizer(model=self.draw(st.sampled_from(fitting))))
        tokenizer = self.draw(masking_tokenizers if network.reads_both_sides else tokenizers)
        if isinstance(tokenizer, PretrainedTokenizer):
            return self.named(tokenizer)
        named = self.named(evolve(tokenizer, text=text))
        # As a user would leave it out.
        return evolve(named, text=None) if self.draw(st.booleans()) else named

    def new_pretrained(self):
        draw = self.draw
        network = draw(networks(draw(st.sampled_from(self.kinds))))
        name = self.fresh()
        place = draw(
            st.sampled_from(
                [
                    {"path": f"models/{name}"},
                    {"hub": "owner/name", "revision": "1f" * 20},
                    {"package": "a-b.c_d==0.1+local", "path": draw(texts)},
                ]
            )
        )
        return PretrainedModel(
            name=name,
            network=network,
            objective=draw(objectives(draw(st.integers(2, 100)), network, PretrainedTokenizer(path="a"))),
            new_head=draw(st.booleans()),
            seed=draw(seeds),
            dequantize=draw(st.booleans()),
            **place,
        )

    def new_quantized(self, model):
        fitting = [cls for cls in SCHEMES if fits(cls, model.network)]
        chosen = one_scheme(self.draw, self.draw(st.sampled_from(fitting)), model.network)
        kv_cache = None if model.network.reads_both_sides else self.draw(st.sampled_from([None, "float8"]))
        if chosen.rounding.learns and (kv_cache or model.is_sparse):
            chosen = evolve(chosen, rounding=scheme.GPTQ())
        rounds = kv_cache is None or self.draw(st.booleans())
        others = overrides(self.draw, chosen, model.network) if rounds else ()
        rotate = not (model.network.reads_both_sides or model.is_sparse) and self.draw(st.booleans())
        all_schemes = [chosen, *(each.scheme for each in others if each.scheme is not None)]
        reads_hessians = any(
            isinstance(getattr(each, "rounding", None), scheme.GPTQ) or getattr(each, "observer", "") == "imatrix_mse"
            for each in all_schemes
        )
        reads_more = any(
            each.moves_difficulty or each.scales_activations or each.rounding.learns for each in all_schemes
        )
        can_gather = kv_cache is None and not rotate and reads_hessians and not reads_more
        return self.named(
            Quantized(
                model=model,
                scheme=chosen if rounds else None,
                overrides=others,
                kv_cache=kv_cache,
                rotate=rotate,
                propagate_error=not can_gather or self.draw(st.booleans()),
                text=self.text() if model.training_text is None or self.draw(st.integers(0, 2)) == 0 else None,
                calibration_samples=self.draw(counts),
                seed=self.draw(seeds),
            )
        )

    def new_pruned(self, model):
        method = self.draw(prunings(model.network).filter(lambda each: model.task is None or each.is_sparse))
        needs_text = method.reads_text and model.training_text is None
        has_text = needs_text or (method.reads_text and self.draw(st.integers(0, 2)) == 0)
        return self.named(
            Pruned(
                model=model,
                method=method,
                text=self.text() if has_text else None,
                calibration_samples=self.draw(counts),
                seed=self.draw(seeds),
            )
        )

    def new_distilled(self, teacher):
        """A student of the teacher: a network, or a model with its tokenizer that predicts as it does."""
        draw, objective = self.draw, teacher.objective
        students = [
            model
            for model in self.models
            if model != teacher
            and model.task is None
            and model.vocabulary == teacher.vocabulary
            and model.objective.is_masked == objective.is_masked
        ]
        alike = [kind for kind in self.kinds if kind.reads_both_sides == objective.is_masked]
        student = draw(st.sampled_from(students)) if students else draw(networks(draw(st.sampled_from(alike))))
        data, micro = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        length = (student if students else teacher).objective.sequence_length
        known = teacher.training_text or (student.training_text if students else None)
        training, loss = draw(distillations(data * micro * draw(counts), length)), draw(divergences)
        within, logits = draw(st.none() | hidden_states), None
        is_alike = not students or student.objective == objective
        if is_alike and not isinstance(training.duration, Epochs) and draw(st.booleans()):
            training = evolve(training, duration=Steps(training.num_steps(length)))
            # No tokenizer has fewer tokens.
            within, logits, loss = None, draw(stored), evolve(loss, temperature=1.0)
        return Distilled(
            name=self.fresh(),
            student=student,
            teacher=teacher,
            text=self.text() if known is None or draw(st.booleans()) else None,
            training=training,
            loss=loss,
            hard_loss_weight=draw(below_one),
            hidden_states=within,
            teacher_logits=logits,
            parallelism=Parallelism(
                data=data, micro_batch_size=micro, threads_per_rank=draw(counts), bucket_size_mb=draw(counts)
            ),
        )

    def new_task(self, network):
        """A task that such a network can learn."""
        draw = self.draw
        share, files = st.floats(0.01, 0.4).map(Fraction), draw(st.permutations(["a.jsonl", "data/b", "é", "[c]"]))
        shared = {
            "name": self.fresh(),
            "train": files[0],
            "validation": draw(share | st.just(files[1])),
            "test": draw(share | st.just(files[2])),
            "max_length": draw(st.integers(8, 512)),
            "seed": draw(seeds),
        }

        def ending(ends):
            return {
                split: f"{file}{draw(st.sampled_from(ends))}"
                for split in ("train", "validation", "test")
                if isinstance(file := shared[split], str)
            }

        if network.reads_both_sides and draw(st.booleans()):
            cased = network.has_token_types and draw(st.booleans())
            return task.NamedEntities(words_field="words", case_as_token_types=cased, **shared)
        if not network.reads_both_sides and draw(st.booleans()):
            if draw(st.booleans()):
                beta = draw(st.floats(0.01, 10))
                return task.Preferences(template="plain", beta=beta, **shared | ending([".jsonl"]))
            return task.Instructions(
                tests_field=draw(st.sampled_from([None, "tests"])),
                template="plain",
                packing=draw(st.booleans()),
                **shared | ending([".jsonl"]),
            )
        if draw(st.integers(0, 3)) == 0:
            fields = draw(st.lists(texts, min_size=3, max_size=3, unique=True))
            return task.Embeddings(
                query_field=fields[0],
                positive_field=fields[1],
                negative_field=draw(st.sampled_from([None, fields[2]])),
                temperature=draw(st.floats(0.001, 1_000)),
                **shared | ending([".csv", ".tab"]),
            )
        can_compare = getattr(network, "type_vocab_size", 2) > 1
        if network.reads_both_sides and can_compare and draw(st.booleans()):
            return task.QuestionAnswering(
                unanswerable=draw(st.booleans()),
                doc_stride=draw(st.integers(0, shared["max_length"] // 3)),
                max_answer_length=draw(st.integers(1, shared["max_length"] - 1)),
                **shared | ending([".json", ".jsonl"]),
            )
        fields = draw(st.lists(texts, min_size=3, max_size=3, unique=True))
        return task.Classification(
            text_field=fields[0],
            second_text_field=draw(st.sampled_from([None, fields[1]])) if can_compare else None,
            label_field=fields[2],
            answer=draw(st.sampled_from(["one", "several", "score"])),
            **shared | ending([".csv", ".tab"]),
        )

    def new_fine_tuned(self, start):
        draw = self.draw
        known = [each for each in self.tasks if not list(each.misfits(start.network))]
        what = self.one_of(known, lambda: self.new_task(start.network))
        self.tasks.append(what)
        is_alone = isinstance(what, task.Embeddings) and what.negative_field is None
        data, micro = draw(st.integers(1, 4)), draw(st.integers(2 if is_alone else 1, 4))
        network = None if start.is_sparse else start.network
        training = draw(fine_tunings(data * micro * draw(counts), network))
        return FineTuned(
            name=self.fresh(),
            start=start,
            task=what,
            training=training if what.has_classes else evolve(training, class_weights=None),
            parallelism=Parallelism(
                data=data,
                micro_batch_size=micro,
                zero_stage=draw(st.sampled_from([0, 3])),
                threads_per_rank=draw(counts),
            ),
        )

    def new_model(self):
        ways = [
            "first",
            "theirs",
            "on",
            "on",
            *["quantized"] * 4,
            *["pruned"] * 2,
            *["distilled"] * 2,
            *["tuned"] * 3,
        ]
        made = self.draw(st.sampled_from(ways))
        # Zeros can't be trained, nor made again; only rounding keeps them.
        fit = [m for m in self.models if not m.is_rounded and (made == "quantized" or not m.is_sparse)]
        if made == "pruned":
            # Of a row of one weight, no share is left out.
            fit = [m for m in fit if min(m.network.quantized_widths.values()) > 1]
        if made in ("on", "distilled"):
            fit = [m for m in fit if m.task is None]
        if made == "theirs":
            return self.new_pretrained()
        if not fit or made == "first":
            return self.new_trained()
        if made == "distilled":
            return self.new_distilled(self.draw(st.sampled_from([m for m in self.models if m.task is None])))
        # The last one, often: chains grow.
        start = fit[-1] if self.draw(st.booleans()) else self.draw(st.sampled_from(fit))
        makers = {"on": self.new_trained, "quantized": self.new_quantized, "pruned": self.new_pruned}
        return (makers | {"tuned": self.new_fine_tuned})[made](start)

    def measures_of(self, models):
        """Measures that fit all of the models; the first is a perplexity, or of their tasks."""
        if models[0].task is not None:
            return (self.named(measure.Task(split=self.draw(st.sampled_from(["test", "validation"])))),)
        common = common_text(models)
        text = None if common is not None else self.text()
        weights = [part.weight for part in (text or common).parts]
        length = max(model.objective.sequence_length for model in models)
        enough = st.integers(length * math.ceil(sum(weights) / min(weights)), 10**6)
        measures = [measure.Perplexity(text=text, max_tokens=self.draw(enough))]
        if all(model.objective.is_masked for model in models) and self.draw(st.booleans()):
            measures.append(measure.PseudoPerplexity(text=text, max_tokens=self.draw(enough)))
        if not any(model.objective.is_masked for model in models) and self.draw(st.booleans()):
            measures.append(measure.Samples(prompts=self.draw(tuples(texts, 1)), max_new_tokens=self.draw(counts)))
        if not any(model.objective.is_masked for model in models) and self.draw(st.booleans()):
            measures.append(self.draw(evaluations))
        if any(model.compares_by_layer for model in models) and self.draw(st.booleans()):
            measures.append(measure.LayerErrors(text=text, max_tokens=self.draw(enough)))
        return tuple(map(self.named, measures))

    def recipe(self):
        chosen = self.draw(
            st.lists(st.sampled_from(self.models), min_size=1, max_size=3, unique_by=lambda each: each.name)
        )
        chosen = [model for model in chosen if (model.task is None) == (chosen[0].task is None)]
        measures = self.measures_of(chosen)
        return Recipe(
            name=self.fresh(), models=tuple(chosen), measures=measures, release=self.release(chosen, measures[0])
        )

    def release(self, models, perplexity):
        """One of the models, by gates that fit; or none, as often."""
        if models[0].task is not None:
            return None
        reference = models[0]
        comparable = [
            model
            for model in models
            if model.objective == reference.objective
            or not (model.objective.is_masked or reference.objective.is_masked)
        ]
        number = "masked_perplexity" if reference.objective.is_masked else "bits_per_byte"
        asked = [
            gate.Recovery(at_least=self.draw(up_to_one), measure=perplexity.name),
            gate.Size(at_most_mb=self.draw(positive)),
            gate.Score(number=number, measure=perplexity.name, at_least=self.draw(below_one), at_most=1.0),
            gate.Speed(at_least=self.draw(positive), processor=self.draw(texts), measure=perplexity.name),
        ]
        gates = st.lists(st.sampled_from(asked), min_size=1, unique=True).map(tuple)
        candidates = st.lists(st.sampled_from(comparable), min_size=1, unique_by=lambda each: each.name).map(tuple)
        return self.draw(st.none() | st.builds(Release, candidates=candidates, gates=gates))


@st.composite
def trained_models(draw, kinds=NETWORKS):
    """A model trained from a network, on the text of the small one."""
    return World(draw, kinds, [SMALL_MODEL.text]).new_trained()


@st.composite
def recipes(draw, kinds=NETWORKS):
    """A recipe whose models may be made from each other and share what they are made from."""
    world = World(draw, kinds)
    for _ in range(draw(st.sampled_from([1, 2, 2, 3]))):
        world.models.append(world.new_model())
    return world.recipe()


@st.composite
def recipe_sets(draw, kinds=NETWORKS):
    """Several recipes that share models and texts, with chains of models."""
    world = World(draw, kinds)
    found = []
    for _ in range(draw(st.integers(2, 3))):
        for _ in range(draw(st.integers(1, 3))):
            world.models.append(world.new_model())
        found.append(world.recipe())
    return tuple(found)


a_task = st.composite(lambda draw: World(draw, NETWORKS).new_task(draw(networks(Bert) | networks(Llama))))()
revisions = st.integers(1, 9)
sections = st.one_of(
    st.builds(
        PrepareSection,
        source=sources,
        clean=cleaners,
        heldout=heldouts,
        shards=counts,
        revision=revisions,
    ),
    st.builds(AugmentSection, augment=augmenters, revision=revisions),
    recipes().flatmap(lambda recipe: st.sampled_from(taken_over(recipe) or [ReportSection()])),
    st.builds(TokenizerSection, tokenizer=tokenizers, revision=revisions),
    st.builds(TokenizeSection, revision=revisions),
    st.builds(MixSection, shares=st.lists(positive, min_size=1, max_size=3).map(tuple)),
    recipes().map(lambda recipe: next(map(train_section, filter(is_trained, lineage(recipe.models))), ReportSection())),
    st.builds(ExportSection, revision=revisions),
    st.builds(QuantizeSection, scheme=schemes, kv_cache=st.just("float8"), calibration_samples=counts, seed=seeds),
    st.builds(HessiansSection, calibration_samples=counts, seed=seeds),
    st.builds(PruneSection, method=prunings(SMALL_MODEL.network), calibration_samples=counts, seed=seeds),
    st.builds(PredictSection, top_k=counts, sequences=counts, seed=seeds, validation_sequences=counts),
    st.builds(
        DistilSection,
        network=st.none(),
        loss=divergences,
        hard_loss_weight=below_one,
        hidden_states=st.none() | hidden_states,
        training=distillations(4, 8),
        parallelism=st.builds(Parallelism, micro_batch_size=st.sampled_from([1, 2, 4])),
        revision=revisions,
    ),
    st.builds(ExamplesSection, task=a_task, revision=revisions),
    st.builds(
        FineTuneSection,
        task=a_task.map(lambda each: each.on_examples),
        training=fine_tunings(4, SMALL_MODEL.network),
        parallelism=st.builds(Parallelism, micro_batch_size=st.sampled_from([1, 2, 4])),
        revision=revisions,
    ),
    st.builds(MeasureSection, measure=st.builds(measure.Perplexity, max_tokens=counts) | evaluations),
    st.builds(ReportSection, revision=revisions),
    st.builds(
        ReleaseSection,
        candidates=tuples(texts, 1),
        reference=texts,
        gates=st.builds(gate.Recovery, at_least=up_to_one, measure=texts, number=st.none() | texts).map(
            lambda one: (one,)
        ),
        revision=revisions,
    ),
)


def taken_over(recipe):
    return [ImportSection(model=each) for each in lineage(recipe.models) if isinstance(each, PretrainedModel)]


def is_trained(model):
    return isinstance(model, Trained)


def lineage(models):
    """The models, and all that they are made from."""
    for model in models:
        yield model
        yield from lineage(model.parents)


def train_section(model):
    return TrainSection(
        network=None if model.parents else model.start,
        objective=model.objective,
        training=model.training,
        parallelism=model.parallelism,
        resize_embeddings=model.resize_embeddings,
    )
