"""What the engines must know of a family of networks: its configurations and its weights in two libraries.

transformers makes the first weights and reads the exported model; nanotron trains. A family is one `Architecture`,
found by the class of the network; a network of a user's own names the module that has it (`Network.module`).
"""

import abc
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import attrs
import torch
from transformers import PretrainedConfig, PreTrainedModel

from llmrecipe.engines.models.stored import on_disk, same_memory
from llmrecipe.engines.models.table import Weight, Weights, padded
from llmrecipe.errors import StageError
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.llama import Llama
from llmrecipe.recipe.networks.mistral import Mistral
from llmrecipe.recipe.networks.modern_bert import ModernBert
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.networks.qwen2 import Qwen2
from llmrecipe.recipe.networks.qwen3 import Qwen3
from llmrecipe.recipe.schema import members
from llmrecipe.recipe.training import Dropout

if TYPE_CHECKING:
    from nanotron.models import NanotronModel

N = TypeVar("N", bound=Network)

_OURS: dict[type[Network], str] = {
    Llama: "llama",
    Mistral: "mistral",
    Qwen2: "qwen2",
    Qwen3: "qwen3",
    Bert: "bert",
    ModernBert: "modern_bert",
}
"""Their folders here."""


@attrs.frozen(kw_only=True)
class RunOptions:
    """What a run asks of a network besides its shape."""

    vocab_size: int
    """Rows of the embedding that are tokens; the padding after them takes no part in the loss."""

    device: str = "cpu"
    """`cpu` or `cuda`."""

    seed: int = 0
    """Decides what is dropped."""

    dropout: Dropout = attrs.field(factory=Dropout)
    """Shares that are dropped."""

    z_loss: float = 0.0
    """Weight of the z-loss."""

    recompute: bool = False
    """Whether layers are computed again in the backward pass."""

    compiled: bool = False
    """Whether layers are compiled."""

    restart_at_documents: bool = False
    """Whether a decoder's token reads only tokens of its own document."""

    predicts_context: bool = False
    """Whether an encoder has a second head, for the tokens before masked spans."""

    pads: bool = True
    """Whether an encoder may get sequences with padding."""


class Architecture(abc.ABC, Generic[N]):
    """A family of networks in transformers and in nanotron.

    `vocab_size` is the number of rows of the embedding in transformers; nanotron's are padded. `end_of_text_id` is the
    token that ends a document. Weights have nanotron's names unless it is said otherwise.
    """

    transformers_class: type[PreTrainedModel]
    """The class of the exported model."""

    tied: Mapping[str, str] = {}
    """Weights of transformers' network that are others under a second name, with those."""

    head: tuple[str, ...] = ("model.head.", "model.lm_head.")
    """What the names of the output head's weights begin with."""

    @abc.abstractmethod
    def transformers_config(self, network: N, vocab_size: int, end_of_text_id: int) -> PretrainedConfig:
        """The configuration of `transformers_class`."""

    @abc.abstractmethod
    def weights(self, network: N) -> Sequence[Weight]:
        """The table of a network's weights."""

    def embedding(self, network: N) -> str:
        """transformers' name of the token embedding, which is the first of the table with a row for each token."""
        return next(weight.blocks[0].name for weight in self.weights(network) if weight.is_of_vocabulary)

    def from_transformers(self, state: Mapping[str, torch.Tensor], network: N, scratch: Path | None = None) -> Weights:
        """transformers' weights under nanotron's names, padded.

        Those that aren't the same in both are kept in files in `scratch`, or in memory.
        """
        made = {}
        for weight in self.weights(network):
            joined = weight.joined(state.__getitem__)
            if weight.is_of_vocabulary:
                joined = padded(joined, network.padded_vocab_size(len(joined)))
            made[weight.name] = _kept(joined, state[weight.blocks[0].name], scratch)
        return made

    def to_transformers(
        self, weights: Mapping[str, torch.Tensor], network: N, vocab_size: int, scratch: Path | None = None
    ) -> Weights:
        """nanotron's weights under transformers' names, without padding and without what only training needs.

        Those that aren't the same in both are kept in files in `scratch`, or in memory.
        """
        state: Weights = {}
        for weight in self.weights(network):
            tensor = weights[weight.name]
            separated = weight.separated(tensor[:vocab_size] if weight.is_of_vocabulary else tensor)
            state |= {name: _kept(part, tensor, scratch) for name, part in separated.items()}
        return state

    @abc.abstractmethod
    def nanotron_config(self, network: N, vocab_size: int, end_of_text_id: int) -> dict[str, Any]:
        """The `model_config` of a nanotron configuration."""

    @abc.abstractmethod
    def nanotron_network(self, network: N, options: RunOptions) -> "Callable[..., NanotronModel]":
        """What builds the network of a run from nanotron's `config`, `parallel_context` and `parallel_config`.

        Called only where nanotron can be imported (`bootstrap.load`), which is not so where this module is.
        """

    @abc.abstractmethod
    def logits(self, built: "NanotronModel", input_ids: torch.Tensor) -> torch.Tensor:
        """float32 `[batch, length, padded vocabulary]` of a network on one rank, from `[batch, length]`."""

    def first_weights(
        self, network: N, vocab_size: int, end_of_text_id: int, seed: int, scratch: Path | None = None
    ) -> Weights:
        """The weights that transformers draws for this network and seed, in float32; see `from_transformers`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            drawn = self.transformers_class(self.transformers_config(network, vocab_size, end_of_text_id))
        return self.from_transformers(drawn.state_dict(), network, scratch)

    def context_head(self, network: N, seed: int) -> Weights:
        """The first weights of the head that predicts the tokens before masked spans.

        Raises:
            StageError: it can't have one.
        """
        raise StageError(
            f"{type(network).__name__} has no head for the tokens before masked spans, which this objective predicts; "
            "use Bert or ModernBert"
        )

    def transformers_network(
        self, weights: Mapping[str, torch.Tensor], network: N, vocab_size: int, end_of_text_id: int
    ) -> PreTrainedModel:
        """transformers' network with these weights, in the number format that they have."""
        config = self.transformers_config(network, vocab_size, end_of_text_id)
        return self.assembled(config, self.to_transformers(weights, network, vocab_size))

    def assembled(self, config: PretrainedConfig, weights: Mapping[str, torch.Tensor]) -> PreTrainedModel:
        """transformers' network of this configuration with these weights, which have transformers' names.

        They are taken as they are and not copied, in the number format that the configuration names, or in that of the
        first.
        """
        dtype = config.dtype or next(iter(weights.values())).dtype
        with torch.device("meta"):
            built: Any = self.transformers_class(config).to(dtype)
        self.fill_buffers(built)
        state = {name: weights[name].to(dtype) for name in weights}
        if config.tie_word_embeddings:
            # A second copy that is stored as well is the same.
            state |= {name: state[other] for name, other in self.tied.items()}
        built.load_state_dict(state, assign=True)
        built.tie_weights()
        return cast(PreTrainedModel, built)

    def fill_buffers(self, built: Any) -> None:
        """Give a transformers network without memory what it holds besides weights, where it reads that."""

    def masked_logits(self, model: Any, states: torch.Tensor) -> torch.Tensor:
        """An encoder's logits, from the last layer's states `[1, places, hidden]`.

        Raises:
            StageError: it isn't an encoder.
        """
        raise StageError(f"{type(model).__name__} predicts no masked tokens; measure it by Perplexity")


def _kept(made: torch.Tensor, source: torch.Tensor, scratch: Path | None) -> torch.Tensor:
    return made if scratch is None or same_memory(made, source) else on_disk(made, scratch)


def architecture_of(network: N) -> Architecture[N]:
    """The family of a network.

    Raises:
        StageError: none is known for its class.
    """
    return _architecture(type(network))


def architecture_of_model(model: PreTrainedModel) -> Architecture[Any]:
    """The family of a transformers model.

    Raises:
        StageError: none is known for its class.
    """
    known = {
        architecture.transformers_class: architecture
        for architecture in map(_architecture, cast(list[type[Network]], [*members(Network).values()]))
    }
    if type(model) not in known:
        names = ", ".join(cls.__name__ for cls in known)
        raise StageError(f"{type(model).__name__} is of no known family; known are {names}")
    return known[type(model)]


def _architecture(cls: type[Network]) -> Architecture[Any]:
    module = cls.module
    if not module and cls in _OURS:
        module = f"llmrecipe.engines.models.{_OURS[cls]}.architecture"
    if not module:
        raise StageError(
            f"{cls.__name__} names no module with an ARCHITECTURE; set `module` of the class (see docs/architecture.md)"
        )
    architecture: Architecture[Any] = importlib.import_module(module).ARCHITECTURE
    return architecture
