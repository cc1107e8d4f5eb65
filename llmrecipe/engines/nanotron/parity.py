"""Whether an exported model computes what nanotron computes."""

from collections.abc import Mapping
from pathlib import Path

import torch

from llmrecipe.engines.models import folders
from llmrecipe.engines.models.parts import compute_in_float32
from llmrecipe.engines.nanotron.port import bootstrap
from llmrecipe.recipe.networks.network import Network

_LENGTH = 128


def logits_difference(
    weights: Mapping[str, torch.Tensor], network: Network, vocab_size: int, end_of_text_id: int, exported: Path
) -> float:
    """Largest difference between the logits of nanotron with these weights and of the model in `exported`.

    As a share of nanotron's largest logit, computed in float32 on a CPU, for two sequences that are the same in every
    run: any tokens do that reach many positions.
    """
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import build

    length = min(network.max_position_embeddings, _LENGTH)
    tokens = torch.randint(0, vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    expected = build.logits(weights, network, vocab_size, end_of_text_id, tokens)
    model = folders.load_model(exported)
    compute_in_float32(model)
    found = folders.logits(model, tokens)
    return folders.largest_difference(found, expected)
