"""Models without what matters least, saved as plain folders in the transformers format."""

import logging
from functools import singledispatch
from pathlib import Path

import attrs
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrecipe.cards import ModelCard
from llmrecipe.engines.compression import shrinking
from llmrecipe.engines.compression.calibration import CalibrationText
from llmrecipe.engines.compression.oneshot import layers_of, linear_layers, linears_in, ours
from llmrecipe.engines.compression.saving import save_and_verify, save_plain
from llmrecipe.engines.compression.sparsity import make_sparse
from llmrecipe.engines.compression.zeros import share_of_zeros
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.stored import put_on_disk
from llmrecipe.engines.models.vocabulary import check_embeddings
from llmrecipe.errors import StageError
from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.kinds import Pruning
from llmrecipe.recipe.networks.decoder import Decoder
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.prune import Layers, Sparse, Width

log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Report:
    """What pruning left of a model."""

    calibration_sequences: int
    """Sequences that decided what is left out."""

    dense_bytes: int
    """Size of the weights files of the model before."""

    dense_weights: int
    """Numbers in them."""

    pruned_bytes: int
    """Size of the weights files of the pruned model."""

    pruned_weights: int
    """Numbers in them, zeros included."""

    sparsity: float
    """Share of the weights of its linear layers, but the output layer, that are zero."""

    sparsity_per_layer: tuple[float, ...]
    """The same of each layer of the network, the first one first."""


@attrs.frozen(kw_only=True)
class Given:
    """What there is to choose by."""

    tokenizer: PreTrainedTokenizerBase
    """The model's tokenizer."""

    calibration: torch.Tensor
    """Token ids `int64[samples, sequence_length]`; no rows for a method that reads none."""

    device: torch.device
    """Where it is computed."""

    card: ModelCard
    """What the model is."""

    scratch: Path
    """A folder for what is as large as the model meanwhile."""


def prune_and_verify(
    source: Path,
    directory: Path,
    card: ModelCard,
    method: Pruning,
    text: CalibrationText | None,
    device: torch.device,
    scratch: Path,
) -> Report:
    """Write the model in `source`, pruned, to `directory`, and check that what was saved computes the same.

    Args:
        source: a model artifact.
        directory: becomes one.
        card: that of the model in `source`, with what the pruned one was made from.
        method: what is left out.
        text: what it is chosen by; None for a method that reads none.
        device: where it is done.
        scratch: a folder for what is as large as the model meanwhile; empty again at the end.

    Raises:
        StageError: the model is quantized, it can't be pruned so, the result computes numbers that aren't finite, or
            the saved model isn't the pruned one.
    """
    with ours("offloading").offloaded(scratch):
        model = folders.load_model(source)
        if hasattr(model.config, "quantization_config"):
            raise StageError(f"{source}: this model is quantized; prune the one that it was made from")
        check_embeddings(source, card, model)
        length = card.objective.sequence_length
        calibration = text.sequences() if text else torch.empty(0, length, dtype=torch.int64)
        # It is written into, and what is written to doesn't stay a view of the file that it was read from.
        put_on_disk(model, scratch)
        log.info("prunes the model" + (f", calibrated on {len(calibration)} sequences" if text else ""))
        given = Given(
            tokenizer=folders.load_tokenizer(source),
            calibration=calibration,
            device=device,
            card=card,
            scratch=scratch,
        )
        pruned, notes = prune(method, model, given)
        made = evolve(
            card,
            network=method.pruned(card.network),
            sparse=card.sparse or method.is_sparse,
            notes=(*card.notes, *notes),
        )
        sparsity = share_of_zeros(linear_layers(pruned).values())
        per_layer = tuple(share_of_zeros(linears_in(layer)) for layer in layers_of(pruned))
        # Any tokens tell whether two models are the same.
        probe = (torch.arange(length, device=device) % card.vocab_size)[None]
        save_and_verify(
            pruned,
            save_plain,
            directory,
            made,
            tokenizer=source,
            generation=source,
            probe=probe,
            scratch=scratch,
        )
    return Report(
        calibration_sequences=len(calibration),
        dense_bytes=folders.weights_bytes(source),
        dense_weights=folders.num_weights(source),
        pruned_bytes=folders.weights_bytes(directory),
        pruned_weights=folders.num_weights(directory),
        sparsity=sparsity,
        sparsity_per_layer=per_layer,
    )


@singledispatch
def prune(method: Pruning, model: PreTrainedModel, given: Given) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The pruned model, which may be `model` itself, changed; and what a reader of its numbers should know.

    It computes on the device that is given.

    Args:
        method: what is left out.
        model: on the CPU, in memory that can be written to.
        given: what it is chosen by.

    Raises:
        StageError: a method has no function here, or can't do it.
    """
    raise StageError(f"nothing prunes by {type(method).__name__}; register a function with `prune.register`")


@prune.register
def _sparse(method: Sparse, model: PreTrainedModel, given: Given) -> tuple[PreTrainedModel, tuple[str, ...]]:
    notes = make_sparse(method, model, given.tokenizer, given.calibration, given.device, keeps_zeros=given.card.sparse)
    return model, notes


@prune.register
def _layers(method: Layers, model: PreTrainedModel, given: Given) -> tuple[PreTrainedModel, tuple[str, ...]]:
    network = _decoder(given.card.network)
    if method.left_out == "last":
        left = list(range(method.num_layers))
    else:
        found = shrinking.importance(model, network, given.calibration, given.device)
        left = shrinking.largest(found.layers, method.num_layers)
    gone = ", ".join(str(layer) for layer in range(network.num_layers) if layer not in left)
    log.info("leaves out layers %s of %d, counted from 0", gone, network.num_layers)
    smaller = shrinking.with_layers(model, _decoder(method.pruned(network)), left, given.scratch)
    return smaller.to(given.device), (f"layers {gone} of {network.num_layers}, counted from 0, were left out",)


@prune.register
def _width(method: Width, model: PreTrainedModel, given: Given) -> tuple[PreTrainedModel, tuple[str, ...]]:
    before = _decoder(given.card.network)
    after = _decoder(method.pruned(before))
    found = shrinking.importance(model, before, given.calibration, given.device)
    return shrinking.with_width(model, before, after, found, given.scratch).to(given.device), ()


def _decoder(network: Network) -> Decoder:
    if not isinstance(network, Decoder):
        raise StageError(f"{type(network).__name__} is no decoder, of which alone it is known what can be left out")
    return network
