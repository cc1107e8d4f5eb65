"""Decoders with fewer layers, neurons or heads: which matter, and a smaller network of those."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from transformers import PreTrainedModel

from llmrecipe.engines.compression.oneshot import batch_size
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.models.stored import on_disk
from llmrecipe.recipe.networks.decoder import Decoder


@attrs.frozen
class Importance:
    """How much what a decoder consists of matters, each by the measure of Muralidharan et al. 2024."""

    layers: torch.Tensor
    """Of each layer, one minus the cosine between its input and its output, the mean over tokens: `[layers]`."""

    neurons: torch.Tensor
    """Mean over tokens of the size of each neuron's activation: `[layers, intermediate_size]`."""

    heads: torch.Tensor
    """Mean over tokens of the norm of the attention of all queries of a key and value head:
    `[layers, num_key_value_heads]`."""


# Not in inference mode, in which weights that are moved can never learn again.
@torch.no_grad()
def importance(model: PreTrainedModel, network: Decoder, calibration: torch.Tensor, device: torch.device) -> Importance:
    """What matters to `model` on a text, in one pass.

    Args:
        model: a decoder of this network, on the CPU, where it is afterwards.
        network: its shape.
        calibration: token ids `int64[samples, sequence_length]`, at least one.
        device: where it is computed.
    """
    found = Importance(
        torch.zeros(network.num_layers, device=device),
        torch.zeros(network.num_layers, network.feed_forward_size, device=device),
        torch.zeros(network.num_layers, network.num_key_value_heads, device=device),
    )

    def watched(into: torch.Tensor, measure: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
        def hook(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            into.add_(measure(given[0].float()).flatten(0, 1).sum(0) / calibration.numel())

        return hook

    def of_layer(into: torch.Tensor) -> Callable[..., None]:
        def hook(module: Any, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            same = torch.cosine_similarity(given[0].float(), result.float(), dim=-1)
            into.add_((1 - same).sum() / calibration.numel())

        return hook

    decoder: Any = model.base_model
    hooks = []
    for index, layer in enumerate(decoder.layers):
        hooks += [
            layer.register_forward_hook(of_layer(found.layers[index])),
            layer.mlp.down_proj.register_forward_pre_hook(watched(found.neurons[index], torch.abs)),
            layer.self_attn.o_proj.register_forward_pre_hook(
                watched(
                    found.heads[index],
                    lambda states: states.unflatten(-1, (network.num_key_value_heads, -1)).norm(dim=-1),
                )
            ),
        ]
    decoder.to(device)
    for rows in calibration.split(batch_size(calibration)):
        decoder(input_ids=rows.to(device), use_cache=False)
    decoder.to("cpu")
    for hook in hooks:
        hook.remove()
    return Importance(*(each.cpu() for each in (found.layers, found.neurons, found.heads)))


def largest(scores: torch.Tensor, count: int) -> list[int]:
    """Places of the `count` largest of `scores`, in ascending order; of equal ones, the first."""
    return sorted(scores.argsort(descending=True, stable=True)[:count].tolist())


def with_layers(model: PreTrainedModel, after: Decoder, layers: Sequence[int], scratch: Path) -> PreTrainedModel:
    """The model with these of its layers alone.

    Args:
        model: a decoder, on the CPU.
        after: its network with so many.
        layers: their places, in order.
        scratch: where the weights are kept.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[layer] for layer in layers]
    places = {layer: place for place, layer in enumerate(layers)}

    def left(layer: int, name: str, tensor: torch.Tensor) -> tuple[int, torch.Tensor] | None:
        return (places[layer], tensor) if layer in places else None

    return _selected(model, config, after, left, scratch)


def with_width(
    model: PreTrainedModel,
    before: Decoder,
    after: Decoder,
    neurons: Sequence[Sequence[int]],
    heads: Sequence[Sequence[int]],
    scratch: Path,
) -> PreTrainedModel:
    """The model with these of its neurons, and of its key and value heads with their query heads.

    Args:
        model: a decoder, on the CPU.
        before: its network.
        after: that with fewer of them.
        neurons: by layer, their places, in order.
        heads: by layer, their places, in order.
        scratch: where the weights are kept.
    """
    config = copy.deepcopy(model.config)
    config.intermediate_size = after.feed_forward_size
    config.num_attention_heads, config.num_key_value_heads = after.num_attention_heads, after.num_key_value_heads
    # The hidden size over the heads doesn't give it any more.
    config.head_dim = after.head_size
    of_group = before.num_attention_heads // before.num_key_value_heads * before.head_size

    def left(layer: int, name: str, tensor: torch.Tensor) -> tuple[int, torch.Tensor] | None:
        module = name.split(".")[-2]
        if module in ("gate_proj", "up_proj"):
            return layer, tensor[torch.tensor(neurons[layer])]
        if module == "down_proj":
            return layer, tensor[:, torch.tensor(neurons[layer])]
        if module == "q_proj":
            return layer, tensor[_channels(heads[layer], of_group)]
        if module in ("k_proj", "v_proj"):
            return layer, tensor[_channels(heads[layer], before.head_size)]
        if module == "o_proj":
            # Its bias, if it has one, is of the hidden size.
            return layer, tensor[:, _channels(heads[layer], of_group)] if tensor.dim() == 2 else tensor
        return layer, tensor

    return _selected(model, config, after, left, scratch)


def _channels(heads: Sequence[int], width: int) -> torch.Tensor:
    """Places of the channels of these heads, each `width` wide."""
    return torch.cat([torch.arange(head * width, (head + 1) * width) for head in heads])


def _selected(
    model: PreTrainedModel,
    config: Any,
    network: Decoder,
    left: Callable[[int, str, torch.Tensor], tuple[int, torch.Tensor] | None],
    scratch: Path,
) -> PreTrainedModel:
    """The network of `config` with what `left` gives of each weight of a layer, and that layer's new place."""
    weights = {}
    for name, tensor in model.state_dict().items():
        before, _, rest = name.partition(".layers.")
        if rest:
            place, _, inner = rest.partition(".")
            found = left(int(place), inner, tensor)
            if found is not None:
                weights[f"{before}.layers.{found[0]}.{inner}"] = on_disk(found[1], scratch)
        else:
            weights[name] = tensor
    return architecture_of(network).assembled(config, weights).eval()
