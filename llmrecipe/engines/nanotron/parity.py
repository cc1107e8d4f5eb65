"""Whether an exported model is the trained one: computes what nanotron computes, and holds its weights."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import torch

from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.parts import compute_in
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.recipe.networks.network import Network

_LENGTH = 128

EXPLAINED = 16.0
"""How far apart rounding brings two programs that compute the same, over how far it brings one from the exact result.

Both round as often, so it is about one: at most 2.6 from 64 to 8,192 hidden units, and 5.7 with weights so large that
attention jumps from one token to another. Weights that are mixed up, missing or rounded are dozens to millions away.
"""


@attrs.frozen(kw_only=True)
class Agreement:
    """How near an exported model's logits are to nanotron's."""

    difference: float
    """Largest difference between the two in float32."""

    rounding: float
    """What float32 changes in the exported model's own: their largest difference to those in float64.

    No formula gives it: it grows with width and depth, and a hundred thousand times with the size of the weights. It
    is at least the last place of the largest logit.
    """

    largest: float
    """Largest logit."""

    @property
    def is_explained_by_rounding(self) -> bool:
        """Whether both compute the same."""
        # False for NaN.
        return self.difference <= EXPLAINED * self.rounding

    @property
    def proves_nothing(self) -> bool:
        """Whether rounding is so large that it would explain anything."""
        return EXPLAINED * self.rounding > self.largest


def agreement(
    weights: Mapping[str, torch.Tensor], network: Network, vocab_size: int, end_of_text_id: int, exported: Path
) -> Agreement:
    """Compare the logits of nanotron with these weights and of the model in `exported`, on a CPU.

    Both read two sequences that are the same in every run: any tokens do that reach many positions.
    """
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build

    length = min(network.max_position_embeddings, _LENGTH)
    tokens = torch.randint(0, vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    trained = build.logits(weights, network, vocab_size, end_of_text_id, tokens)
    found = _logits(exported, tokens, torch.float32)
    difference = trained.sub_(found).abs_().max()
    exact = _logits(exported, tokens, torch.float64)
    largest = exact.abs().max()
    # NaN if one of them is.
    rounding = torch.maximum(exact.sub_(found).abs_().max(), largest * torch.finfo(torch.float32).eps)
    return Agreement(difference=difference.item(), rounding=rounding.item(), largest=largest.item())


def altered_weights(
    weights: Mapping[str, torch.Tensor], network: Network, vocab_size: int, exported: Path
) -> list[str]:
    """nanotron's names of the weights that the model in `exported` doesn't hold bit by bit.

    Logits show only what they depend on: of a layer that does little yet, no rounded weight.
    """
    state = folders.load_model(exported).state_dict()
    altered = []
    for weight in architecture_of(network).weights(network):
        own = weights[weight.name][:vocab_size] if weight.is_of_vocabulary else weights[weight.name]
        found = weight.joined(state.__getitem__)
        if found.dtype != own.dtype or not torch.equal(found, own):
            altered.append(weight.name)
    return altered


@torch.no_grad()
def _logits(exported: Path, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    model = folders.load_model(exported)
    compute_in(model, dtype)
    logits: torch.Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits
