"""Rules about what a model is made from."""

from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.model import Calibrated, Checkpoint, PretrainedModel, Quantized, Trained
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.quantity import Epochs
from llmrecipe.recipe.recipe import Recipe
from llmrecipe.recipe.rules import Findings, Rules

rules = Rules()

_SHOWN = 8
"""Of kept steps, how many are named one by one."""


@rules.add("models", of=Recipe)
def _model_again(recipe: Recipe) -> Findings:
    for index, model in enumerate(recipe.models):
        first = recipe.models.index(model)
        if first < index:
            yield f"models[{index}]", f"{model.name} is models[{first}] again; keep one of them"


@rules.add("path", "hub", "package", "revision", of=PretrainedModel)
def _one_place(model: PretrainedModel) -> Findings:
    ways = 'path="models/…", hub="owner/name" with a revision, or package="name==version"'
    if model.path is model.hub is model.package is None:
        yield "path", f"is missing: say where the model is, by {ways}"
    elif model.hub is not None and (model.path is not None or model.package is not None):
        yield "hub", f"{model.hub!r} is given, and {'path' if model.path else 'package'} as well; keep one of them"
    if model.hub is not None and model.revision is None:
        yield (
            "revision",
            f"is missing, and what {model.hub!r} is can change; copy the hash of a commit from 'Files and versions', "
            "'History' on its page",
        )
    elif model.hub is None and model.revision is not None:
        yield "revision", f"{model.revision!r} is given without hub; leave it out"


@rules.add("tokenizer", of=Trained)
def _no_tokenizer(model: Trained) -> Findings:
    start = model.start
    if isinstance(start, Network) and model.tokenizer is None:
        yield (
            "tokenizer",
            f"is missing, and {type(start).__name__} is a network without weights, which brings none; use one that "
            f"suits the text, such as {'WordPiece' if start.reads_both_sides else 'ByteLevelBPE'}(vocab_size=32_000)",
        )


@rules.add("tokenizer", "vocabulary", "start.vocabulary", of=Trained)
def _other_tokenizer(model: Trained) -> Findings:
    start = model.start
    if not isinstance(start, Model):
        return
    is_other = model.tokenizer is not None and model.vocabulary != start.vocabulary
    if is_other and not model.resize_embeddings:
        yield (
            "tokenizer",
            f"{model.vocabulary.name} is not {start.vocabulary.name}, the tokenizer of {start.name}, whose "
            "weights know its tokens alone; leave it out, or give the others embeddings by resize_embeddings=True",
        )
    elif model.resize_embeddings and not is_other:
        yield (
            "resize_embeddings",
            f"True, and the tokenizer is that of {start.name}, which has its embeddings; leave it out",
        )


@rules.add("resize_embeddings", of=Trained)
def _nothing_to_resize(model: Trained) -> Findings:
    if model.resize_embeddings and isinstance(model.start, Network):
        yield "resize_embeddings", f"True, and {type(model.start).__name__} has no embeddings yet; leave it out"


@rules.add("start", of=Trained)
def _start(model: Trained) -> Findings:
    if isinstance(model.start, Model) and model.start.is_rounded:
        yield (
            "start",
            f"{model.start.name} is {type(model.start).__name__}: its weights are rounded, and can't be trained; start "
            f"from {_dense(model.start).name}, and quantize what comes of it",
        )


@rules.add("step", "model.name", "model.training", "model.objective", of=Checkpoint)
def _not_kept(checkpoint: Checkpoint) -> Findings:
    model, step = checkpoint.model, checkpoint.step
    training, every = model.training, model.training.keep_every
    if every is None:
        reason = f"{step}, and {model.name} keeps no checkpoints; give its training keep_every=Steps({step})"
        yield "step", reason
    elif every.count < 1:
        return
    elif isinstance(training.duration, Epochs):
        if not training.is_kept(step):
            yield "step", f"{step} is not kept: training.keep_every = {every} keeps its multiples"
    else:
        kept = range(every.count, training.num_steps(model.objective.sequence_length) + 1, every.count)
        if kept and step not in kept:
            shown = f"{kept[0]}, {kept[1]}, … {kept[-1]}" if len(kept) > _SHOWN else ", ".join(map(str, kept))
            yield "step", f"{step} is not kept; training.keep_every = {every} of {model.name} keeps {shown}"


@rules.add("model", of=Quantized)
def _quantized_twice(model: Quantized) -> Findings:
    if model.model.is_rounded:
        yield (
            "model",
            f"{model.model.name} is {type(model.model).__name__}, and a model is quantized once; quantize "
            f"{unrounded(model.model).name}",
        )


def unrounded(model: Model) -> Model:
    """The nearest ancestor whose weights aren't rounded."""
    return unrounded(model.parents[0]) if model.is_rounded else model


def _dense(model: Model) -> Model:
    """The nearest ancestor whose weights are neither rounded nor to stay zero."""
    return _dense(model.parents[0]) if (model.is_rounded or model.is_sparse) and model.parents else model


@rules.add("text", "model", of=Quantized)
def calibration(model: Calibrated) -> Findings:
    """What is wrong with the text that calibrates."""
    if model.reads_text and model.text is None and model.model.training_text is None:
        yield (
            "text",
            f"is missing: {type(model).__name__} is calibrated on text, and {model.model.name} was not trained here; "
            "give it, text=Corpus(…)",
        )
