"""The blocks of an encoder: BERT's, and ModernBERT's where they differ."""

import abc
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import attrs
import torch
from nanotron import distributed as dist
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import differentiable_all_gather
from nanotron.parallel.tensor_parallel.nn import (
    TensorParallelColumnLinear,
    TensorParallelEmbedding,
    TensorParallelLinearMode,
    TensorParallelRowLinear,
)
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llmrecipe.engines.nanotron.networks.dropout import Dropper
from llmrecipe.engines.nanotron.networks.micro_batch import MicroBatchInFlight, within
from llmrecipe.engines.nanotron.networks.rotary import RotaryEmbedding
from llmrecipe.engines.nanotron.port.linear import linear
from llmrecipe.recipe.networks.bert import Bert
from llmrecipe.recipe.networks.network import Network


@attrs.frozen(kw_only=True, eq=False)
class Blocks:
    """What a family of encoders is built of."""

    embeddings: "type[Embeddings]"
    """Tokens to states."""

    layer: "Callable[..., EncoderLayer]"
    """A layer."""

    norm_eps: float
    """Added to the variance in each LayerNorm."""

    reach: Callable[[int], int | None] = attrs.field(default=lambda layer: None)
    """How far, on each side, the tokens of a layer read, by its number; None for the whole sequence."""

    has_biases: bool
    """Whether linear layers and norms have biases."""

    has_final_norm: bool
    """Whether a norm follows the last layer; else it ends with one."""


@attrs.frozen(kw_only=True, eq=False)
class Surroundings:
    """What every block of an encoder gets."""

    network: Network
    """The shape."""

    blocks: Blocks
    """What it is built of."""

    batch: MicroBatchInFlight
    """What the network is reading."""

    tensor_group: dist.ProcessGroup
    """The ranks that share the network's matrices."""

    tensor_parallel_mode: TensorParallelLinearMode
    """Whether they share the tokens between the matrices, too."""

    dropper: Dropper
    """What is dropped."""

    recompute: bool
    """Whether layers are computed again in the backward pass."""

    compiled: bool
    """Whether they are compiled."""

    predicts_context: bool
    """Whether there is a second head, for the tokens before masked spans."""

    pads: bool = True
    """Whether sequences may have padding, which no token reads."""

    @property
    def linear(self) -> dict[str, Any]:
        """Options of nanotron's linear layers."""
        return {"pg": self.tensor_group, "mode": self.tensor_parallel_mode, "bias": self.blocks.has_biases}

    def layer_norm(self) -> nn.LayerNorm:
        """A norm of the residual stream."""
        return nn.LayerNorm(self.network.hidden_size, eps=self.blocks.norm_eps, bias=self.blocks.has_biases)


class Embeddings(nn.Module):
    """Tokens, normalised."""

    def __init__(self, around: Surroundings, vocab_size: int) -> None:
        super().__init__()
        self.batch, self.tensor_group, self.dropper = around.batch, around.tensor_group, around.dropper
        self.token_embedding = TensorParallelEmbedding(
            vocab_size, around.network.hidden_size, pg=around.tensor_group, mode=around.tensor_parallel_mode
        )
        self.layer_norm = around.layer_norm()

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[batch, length]` to `[length, batch, hidden]`, or a rank's part of the length."""
        states = self.layer_norm(self._embedded(input_ids))
        rate = self.dropper.rates.embedding
        return {"hidden_states": self.dropper.of_tokens(states, rate, "embedding", self.batch.samples)}

    def _embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(input_ids.t())


class BertEmbeddings(Embeddings):
    """Tokens, positions and segment 0, added and normalised."""

    def __init__(self, around: Surroundings, vocab_size: int) -> None:
        super().__init__(around, vocab_size)
        network = cast(Bert, around.network)
        self.position_embedding = nn.Embedding(network.max_position_embeddings, network.hidden_size)
        self.segment_embedding = nn.Embedding(network.type_vocab_size, network.hidden_size)

    def _embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_embedding.weight[: input_ids.shape[1]]
        if self.dropper.is_sequence_parallel:
            positions = positions.chunk(self.tensor_group.size())[dist.get_rank(self.tensor_group)]
        return super()._embedded(input_ids) + (positions + self.segment_embedding.weight[0])[:, None]


class EncoderLayer(nn.Module, abc.ABC):
    """Attention in both directions and a feed-forward layer, each added to what it has read."""

    def __init__(self, around: Surroundings, index: int) -> None:
        super().__init__()
        self.batch, self.dropper, self.recompute = around.batch, around.dropper, around.recompute
        self.pads = around.pads
        self.place = f"layer {index}"
        width = around.network.hidden_size
        self.head_dim = around.network.head_size
        self.reach = around.blocks.reach(index)
        self.qkv_proj = TensorParallelColumnLinear(width, 3 * width, contiguous_chunks=(width,) * 3, **around.linear)
        self.o_proj = TensorParallelRowLinear(width, width, **around.linear)
        if around.compiled:
            self._layer = torch.compile(self._layer, dynamic=False)  # type: ignore[method-assign]

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to the same; the mask is handed on."""
        # Bound now: at the time of a recomputation the network may be reading another micro-batch.
        layer = functools.partial(self._layer, attended=self._attended(mask), samples=self.dropper.samples(self.batch))
        if self.recompute and torch.is_grad_enabled():
            hidden_states = checkpoint(layer, hidden_states, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden_states = layer(hidden_states)
        return {"hidden_states": hidden_states, "mask": mask}

    @abc.abstractmethod
    def _layer(self, states: torch.Tensor, attended: torch.Tensor | None, samples: Sequence[int]) -> torch.Tensor: ...

    def _dropped(self, states: torch.Tensor, part: str, samples: Sequence[int]) -> torch.Tensor:
        rate = self.dropper.rates.residual
        # Compiled layers share their code, which may not know a layer's place.
        return self.dropper.of_tokens(states, rate, f"{self.place}, {part}", samples) if rate else states

    def _attended(self, mask: torch.Tensor) -> torch.Tensor | None:
        """Whether a token (third dimension) reads another (fourth); None where each reads all."""
        # A kernel without a mask is faster. Who looks whether there is padding keeps a GPU waiting.
        attended = None if not self.pads or mask.all() else mask[:, None, None, :]
        if self.reach is not None and self.reach < mask.shape[1]:
            near = within(mask.shape[1], self.reach, self.reach, mask.device)
            attended = near if attended is None else attended & near
        return attended

    def _attention(self, states: torch.Tensor, attended: torch.Tensor | None, samples: Sequence[int]) -> torch.Tensor:
        heads = self.qkv_proj(states).unflatten(-1, (-1, self.head_dim))
        query, key, value = (x.permute(1, 2, 0, 3) for x in self._queries_keys_values(heads))
        if self.dropper.rates.attention and torch.is_grad_enabled():
            scores = (query @ key.transpose(-1, -2) * self.head_dim**-0.5).float()
            if attended is not None:
                scores = scores.masked_fill(~attended, float("-inf"))
            attention = self.dropper.of_attention(scores.softmax(-1).to(query.dtype), self.place, samples)
            output = attention @ value
        else:
            output = functional.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        return self.o_proj(output.permute(2, 0, 1, 3).flatten(2))

    def _queries_keys_values(self, heads: torch.Tensor) -> Sequence[torch.Tensor]:
        """Of `[length, batch, 3 × heads, dim]`."""
        return heads.chunk(3, dim=2)


class PostNormLayer(EncoderLayer):
    """BERT's layer: LayerNorm after each addition, GELU."""

    def __init__(self, around: Surroundings, index: int) -> None:
        super().__init__(around, index)
        width, inner = around.network.hidden_size, around.network.feed_forward_size
        self.attention_norm = around.layer_norm()
        self.up_proj = TensorParallelColumnLinear(width, inner, **around.linear)
        self.down_proj = TensorParallelRowLinear(inner, width, **around.linear)
        self.output_norm = around.layer_norm()

    def _layer(self, states: torch.Tensor, attended: torch.Tensor | None, samples: Sequence[int]) -> torch.Tensor:
        read = self._attention(states, attended, samples)
        states = self.attention_norm(states + self._dropped(read, "attention", samples))
        fed_forward = self.down_proj(functional.gelu(self.up_proj(states)))
        return self.output_norm(states + self._dropped(fed_forward, "feed-forward", samples))


class PreNormLayer(EncoderLayer):
    """ModernBERT's layer: LayerNorm before attention and feed-forward, rotary positions, GELU with a gate (GeGLU)."""

    def __init__(self, around: Surroundings, index: int, rotary_of: Callable[[int], RotaryEmbedding]) -> None:
        super().__init__(around, index)
        width, inner = around.network.hidden_size, around.network.feed_forward_size
        self.rotary = rotary_of(index)
        # What the first layer reads comes out of the embeddings' norm.
        self.attention_norm = around.layer_norm() if index else nn.Identity()
        self.feed_forward_norm = around.layer_norm()
        self.gate_up_proj = TensorParallelColumnLinear(
            width, 2 * inner, contiguous_chunks=(inner, inner), **around.linear
        )
        self.down_proj = TensorParallelRowLinear(inner, width, **around.linear)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of every encoder's layer."""
        self.rotary.prepare(mask.shape[1], hidden_states.device)
        return super().forward(hidden_states, mask)

    def _layer(self, states: torch.Tensor, attended: torch.Tensor | None, samples: Sequence[int]) -> torch.Tensor:
        read = self._attention(self.attention_norm(states), attended, samples)
        states = states + self._dropped(read, "attention", samples)
        gate, up = self.gate_up_proj(self.feed_forward_norm(states)).chunk(2, dim=-1)
        fed_forward = self.down_proj(functional.gelu(gate) * up)
        return states + self._dropped(fed_forward, "feed-forward", samples)

    def _queries_keys_values(self, heads: torch.Tensor) -> Sequence[torch.Tensor]:
        count = heads.shape[2] // 3
        rotating, value = heads.split((2 * count, count), dim=2)
        return *self.rotary(rotating).chunk(2, dim=2), value


class Head(nn.Module):
    """The states at the places that something is predicted from, through the dense layer of what is predicted there.

    The output layer comes after it, for these places alone: a seventh of the tokens, where only masked ones count.
    """

    def __init__(self, around: Surroundings) -> None:
        super().__init__()
        self.tensor_group = around.tensor_group
        self.is_sequence_parallel = around.tensor_parallel_mode is TensorParallelLinearMode.REDUCE_SCATTER
        self.predicts_context = around.predicts_context
        width, bias = around.network.hidden_size, around.blocks.has_biases
        self.final_norm = around.layer_norm() if around.blocks.has_final_norm else nn.Identity()
        self.dense, self.layer_norm = nn.Linear(width, width, bias=bias), around.layer_norm()
        if around.predicts_context:
            self.context_dense, self.context_layer_norm = nn.Linear(width, width, bias=bias), around.layer_norm()

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, is_context: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to `[labels, 1, hidden]`, or from and to a rank's part of them."""
        if self.is_sequence_parallel:
            rank, tensor_parallel = dist.get_rank(self.tensor_group), self.tensor_group.size()
            hidden_states = differentiable_all_gather(hidden_states, group=self.tensor_group)
            positions, is_context = (x.chunk(tensor_parallel)[rank] for x in (positions, is_context))
        states = self.final_norm(hidden_states.flatten(0, 1).index_select(0, positions))
        predicting = self._transformed(states, self.dense, self.layer_norm)
        if self.predicts_context:
            context = self._transformed(states, self.context_dense, self.context_layer_norm)
            predicting = torch.where(is_context[:, None], context, predicting)
        return {"hidden_states": predicting[:, None]}

    def _transformed(self, states: torch.Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> torch.Tensor:
        return norm(functional.gelu(linear(states, dense.weight, dense.bias)))
