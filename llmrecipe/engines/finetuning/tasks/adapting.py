"""Adapters by peft: beside the weights of a model, merged into these, and as files of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, LoraModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from llmrecipe import artifacts
from llmrecipe.engines.finetuning.learning import layers_of
from llmrecipe.engines.tasks.work import Work
from llmrecipe.errors import StageError
from llmrecipe.recipe.adapter import LowRank
from llmrecipe.recipe.kinds import Adapter

_NAME = "default"

_INSIDE = "base_model.model."
"""What peft's names of weights begin with."""


def adapted(model: PreTrainedModel, work: Work[Any], adapter: Adapter, seed: int) -> LoraModel:
    """peft's hand on a model that has an adapter now: that alone learns, and what no start has, as a whole.

    These are the head of a task and the pooler below it, and the types of tokens that tell how words are written.

    Args:
        model: whole, on the CPU, as `with_head` gives it; changed.
        work: its task.
        adapter: the recipe's.
        seed: decides the first weights of A.

    Raises:
        StageError: this engine doesn't know the adapter, or it is for none of the model's layers.
    """
    if not isinstance(adapter, LowRank):
        raise StageError(f"training.adapter: {type(adapter).__name__} is none that this engine knows")
    layers = [name for name, whole in _linear_layers(model) if adapter.matches(whole)]
    if not layers:
        raise StageError(f"training.adapter.layers: {adapter.layers!r} matches no linear layer of this model")
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]
        lora_dropout=adapter.dropout,
        target_modules=layers,
        use_dora=adapter.has_magnitudes,
        modules_to_save=_new_modules(model, work),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LoraModel(model, config, _NAME)


def merged(hand: LoraModel) -> Any:
    """The model with its adapter in its weights, of the class and with the names that it had."""
    return hand.merge_and_unload().requires_grad_(True)


def save(hand: LoraModel, folder: Path) -> None:
    """Write the adapter, and what else has learned, as `PeftModel.from_pretrained` reads them beside the start.

    That has to be loaded with transformers' class of the task.
    """
    weights = get_peft_model_state_dict(hand.model, adapter_name=_NAME, save_embedding_layers=False)
    # peft keeps the shortest ends of names that tell them apart in this model; in another they may fit more.
    layers = sorted(hand.targeted_module_names)
    said = hand.peft_config[_NAME].to_dict() | {"inference_mode": True, "target_modules": layers}
    folder.mkdir()
    save_file(
        {f"{_INSIDE}{name}": weight.contiguous() for name, weight in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    artifacts.write_json(folder / "adapter_config.json", said)


def _linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, str]]:
    """The linear layers in a model's layers, by their name in it, and in one with a head."""
    inside = {id(module) for module in layers_of(model).modules()}
    prefix = f"{model.base_model_prefix}." if model.base_model is model else ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and id(module) in inside:
            yield name, f"{prefix}{name}"


def _new_modules(model: PreTrainedModel, work: Work[Any]) -> list[str]:
    """Names of the modules that are the task's, and not the start's."""
    body, modules, found = model.base_model, dict(model.named_modules()), []
    if body is not model and not work.task.keeps_text:
        found += [name for name, child in model.named_children() if child is not body and list(child.parameters())]
        found += [name for name in modules if name.endswith(".pooler")]
    if work.task.token_types is not None:
        found += [name for name in modules if name.endswith(".token_type_embeddings")]
    return found
