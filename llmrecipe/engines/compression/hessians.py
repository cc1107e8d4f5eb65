"""Hessians of a model on a text: gathered in one pass, and handed to what rounds in the place of the text.

Imported when it is needed, by `quantization` and `gathering`, which keep llmcompressor quiet.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.utils import get_execution_device
from llmcompressor.core import Event, State
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier, base
from llmcompressor.modifiers.quantization import QuantizationModifier
from pydantic import PrivateAttr
from safetensors.torch import load_file, save_file

from llmrecipe.cards import HessiansCard
from llmrecipe.errors import StageError


class Gathering(Modifier):
    """Leaves a model as it is, and writes a file of Hessians for each of its blocks when a text has passed it."""

    requires_calibration_data: bool = True

    directory: Path
    """Where the files are written."""

    layers: tuple[str, ...]
    """Names of the linear layers."""

    # By layer, the name of the first that reads the same.
    _of: dict[str, str] = PrivateAttr(default_factory=dict)
    _names: dict[torch.nn.Module, str] = PrivateAttr(default_factory=dict)
    _sums: dict[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]] = PrivateAttr(default_factory=dict)
    # What was read last, and by which layer; holding on to it keeps its place in memory from being anything else's.
    _last: tuple[torch.Tensor | None, torch.nn.Module | None] = PrivateAttr(default=(None, None))
    _files: int = PrivateAttr(default=0)

    @property
    def inputs(self) -> dict[str, str]:
        """By layer, under which name the Hessian of what it reads is written."""
        return dict(sorted(self._of.items()))

    def on_initialize(self, state: State, **kwargs: Any) -> bool:
        """Nothing is changed."""
        return True

    def on_calibration_start(self, state: State, event: Event, **kwargs: Any) -> None:
        """Listen to what the layers read."""
        for name in self.layers:
            module = state.model.get_submodule(name)
            self._names[module] = name
            self.register_hook(module, self._read, "forward")

    def _read(self, *heard: Any) -> None:
        module, arguments, _ = heard
        tensor, first = self._last
        if arguments[0] is not tensor or first is None:
            first = module
            self._last = arguments[0], module
            if module not in self._sums:
                place = arguments[0].device
                self._sums[module] = base.make_empty_hessian(module, device=place), torch.zeros((), device=place)
            self._sums[module] = base.accumulate_hessian(arguments[0], module, *self._sums[module])
        self._of[self._names[module]] = self._names[first]

    def on_sequential_epoch_end(
        self, state: State, event: Event, modules: list[torch.nn.Module], **kwargs: Any
    ) -> None:
        """Write down what the whole text has added up to in the block that it has passed."""
        self._last = None, None
        if self._sums:
            sums = {self._names[module]: hessian.cpu() for module, (hessian, _) in self._sums.items()}
            save_file(sums, self.directory / f"{self._files:05}.safetensors")
            self._files += 1
            self._sums.clear()

    def on_calibration_end(self, state: State, event: Event, **kwargs: Any) -> None:
        """Stop listening."""
        self.remove_hooks()


class _Given(Modifier):
    """What is handed the Hessians of a block, one block after the other, before it rounds that."""

    requires_calibration_data: bool = False

    _directory: Path = PrivateAttr()
    _card: HessiansCard = PrivateAttr()

    def on_sequential_epoch_end(
        self, state: State, event: Event, modules: list[torch.nn.Module], **kwargs: Any
    ) -> None:
        """Round the layers of each block."""
        quantized = {
            name: module
            for name, module in state.model.named_modules()
            if getattr(getattr(module, "quantization_scheme", None), "weights", None) is not None
        }
        missing = sorted(quantized.keys() - self._card.inputs.keys())
        if missing:
            raise StageError(f"{self._directory}: there is no Hessian of what {missing[0]} reads")
        for file in sorted(self._directory.glob("*.safetensors")):
            sums = load_file(file)
            block = [
                (module, sums[self._card.inputs[name]])
                for name, module in quantized.items()
                if self._card.inputs[name] in sums
            ]
            for module, hessian in block:
                self._hand(module, hessian)
            super().on_sequential_epoch_end(state, event, [module for module, _ in block], **kwargs)

    def _hand(self, module: torch.nn.Module, hessian: torch.Tensor) -> None:
        observer: Any = module.weight_observer
        if hasattr(observer, "_imatrix_sum"):
            # It divides by their mean, so neither the number of tokens nor a factor matters.
            observer._imatrix_sum = hessian.diagonal().to(get_execution_device(module))
            observer._imatrix_count = torch.ones((), dtype=torch.int64)


class GivenGPTQ(_Given, GPTQModifier):
    """GPTQ by Hessians that are there already."""

    def _hand(self, module: torch.nn.Module, hessian: torch.Tensor) -> None:
        super()._hand(module, hessian)
        self._hessians[module] = hessian.to(get_execution_device(module))
        self._num_samples[module] = torch.tensor(float(self._card.samples))


class GivenRange(_Given, QuantizationModifier):
    """Rounding to nearest, whose scales are chosen by Hessians that are there already."""


def given(modifiers: Iterable[Modifier], directory: Path, card: HessiansCard) -> Iterator[Modifier]:
    """What rounds as these do, and takes from `directory` what they would read a text for.

    Raises:
        StageError: one of them needs more than Hessians.
    """
    ways: dict[type[Modifier], type[_Given]] = {GPTQModifier: GivenGPTQ, QuantizationModifier: GivenRange}
    for modifier in modifiers:
        if type(modifier) not in ways:
            raise StageError(
                f"{type(modifier).__name__} needs more of a text than its Hessians; use propagate_error=True"
            )
        fields = {name: getattr(modifier, name) for name in modifier.model_fields_set}
        made = ways[type(modifier)](**fields | {"requires_calibration_data": False})
        # pydantic's validators ask for a text again.
        made.requires_calibration_data = False
        made._directory, made._card = directory, card
        yield made
