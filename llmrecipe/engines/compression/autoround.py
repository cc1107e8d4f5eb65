"""AutoRound as llmcompressor has it, mended. Imported when it is needed: AutoRound itself takes a second."""

import logging
from typing import Any

import torch
from compressed_tensors.offload import disable_onloading
from compressed_tensors.utils import match_named_modules
from llmcompressor.core import Event, State
from llmcompressor.modifiers.autoround import AutoRoundModifier

# It warns of how llmcompressor calls it, and tells which text it would read by itself.
logging.getLogger("autoround").setLevel(logging.ERROR)


class LearnedRounding(AutoRoundModifier):
    """AutoRound that leaves weights in the model's number format."""

    # It compiles with a C++ compiler that a machine may lack, and gives other bits where there is one.
    enable_torch_compile: bool = False

    def on_sequential_epoch_end(
        self, state: State, event: Event, modules: list[torch.nn.Module], **kwargs: Any
    ) -> None:
        """Give what AutoRound leaves in bfloat16, in which it computes, the model's number format again.

        What isn't rounded is as it was. Rounded weights of 8 bits and fewer lose nothing: what is stored of them is
        found by dividing by their scale.
        """
        rounded = {module for _, module in match_named_modules(state.model, self.resolved_targets, self.ignore)}
        # What a module gives otherwise, while it computes on a GPU, is a copy of its weight there.
        with disable_onloading():
            before = [
                (module, name, weight.dtype, None if module in rounded else weight.detach().clone())
                for module in modules
                for name, weight in module.named_parameters(recurse=False)
            ]
        super().on_sequential_epoch_end(state, event, modules, **kwargs)
        with disable_onloading():
            for module, name, dtype, kept in before:
                weight = module.get_parameter(name)
                weight.data = weight.data.to(dtype) if kept is None else kept
