"""The blocks of an encoder: BERT's, and ModernBERT's where they differ."""

import abc
import functools
from collections.abc import Sequence
from typing import Any

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

from llmrecipe.engines.nanotron.networks.decoder import MicroBatchInFlight
from llmrecipe.engines.nanotron.networks.dropout import Dropout
from llmrecipe.engines.nanotron.port.attention import RotaryEmbedding
from llmrecipe.engines.nanotron.port.linear import linear
from llmrecipe.recipe.model import Bert, Encoder, ModernBert


class Embeddings(nn.Module):
    """Tokens, normalised."""

    def __init__(
        self,
        *,
        model: Encoder,
        vocab_size: int,
        batch: MicroBatchInFlight,
        tp_pg: dist.ProcessGroup,
        mode: TensorParallelLinearMode,
        dropout: Dropout,
    ) -> None:
        super().__init__()
        self.batch, self.tp_pg, self.dropout = batch, tp_pg, dropout
        self.token_embedding = TensorParallelEmbedding(vocab_size, model.hidden_size, pg=tp_pg, mode=mode)
        self.layer_norm = _layer_norm(model)

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[batch, length]` to `[length, batch, hidden]`, or a rank's part of the length."""
        states = self.layer_norm(self._embedded(input_ids))
        rate = self.dropout.rates.embedding
        return {"hidden_states": self.dropout.of_tokens(states, rate, "embedding", self.batch.samples)}

    def _embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.token_embedding(input_ids.t())


class BertEmbeddings(Embeddings):
    """Tokens, positions and segment 0, added and normalised."""

    def __init__(self, *, model: Bert, **arguments: Any) -> None:
        super().__init__(model=model, **arguments)
        self.position_embedding = nn.Embedding(model.max_position_embeddings, model.hidden_size)
        self.segment_embedding = nn.Embedding(2, model.hidden_size)

    def _embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        positions = self.position_embedding.weight[: input_ids.shape[1]]
        if self.dropout.is_sequence_parallel:
            positions = positions.chunk(self.tp_pg.size())[dist.get_rank(self.tp_pg)]
        return super()._embedded(input_ids) + (positions + self.segment_embedding.weight[0])[:, None]


class EncoderLayer(nn.Module, abc.ABC):
    """Attention in both directions and a feed-forward layer, each added to what it has read."""

    def __init__(
        self,
        *,
        model: Encoder,
        batch: MicroBatchInFlight,
        tp_pg: dist.ProcessGroup,
        mode: TensorParallelLinearMode,
        dropout: Dropout,
        index: int,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.batch, self.dropout, self.place, self.recompute = batch, dropout, f"layer {index}", recompute
        self.head_dim = model.hidden_size // model.num_attention_heads
        width = model.hidden_size
        self.options = {"pg": tp_pg, "mode": mode, "bias": _has_biases(model)}
        self.qkv_proj = TensorParallelColumnLinear(width, 3 * width, contiguous_chunks=(width,) * 3, **self.options)
        self.o_proj = TensorParallelRowLinear(width, width, **self.options)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to the same; the mask is handed on."""
        # Bound now: at the time of a recomputation the network may be reading another micro-batch.
        layer = functools.partial(self._layer, mask=mask, samples=self.batch.samples)
        if self.recompute and torch.is_grad_enabled():
            hidden_states = checkpoint(layer, hidden_states, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden_states = layer(hidden_states)
        return {"hidden_states": hidden_states, "mask": mask}

    @abc.abstractmethod
    def _layer(self, states: torch.Tensor, mask: torch.Tensor, samples: Sequence[int]) -> torch.Tensor: ...

    def _dropped(self, states: torch.Tensor, part: str, samples: Sequence[int]) -> torch.Tensor:
        return self.dropout.of_tokens(states, self.dropout.rates.residual, f"{self.place}, {part}", samples)

    def _attention(self, states: torch.Tensor, mask: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        heads = self.qkv_proj(states).unflatten(-1, (-1, self.head_dim))
        query, key, value = (x.permute(1, 2, 0, 3) for x in self._queries_keys_values(heads))
        # A kernel without a mask is faster, and every token of a training sequence counts.
        hidden = None if mask.all() else mask[:, None, None, :]
        if self.dropout.rates.attention and torch.is_grad_enabled():
            scores = (query @ key.transpose(-1, -2) * self.head_dim**-0.5).float()
            if hidden is not None:
                scores = scores.masked_fill(~hidden, float("-inf"))
            weights = self.dropout.of_attention(scores.softmax(-1).to(query.dtype), self.place, samples)
            output = weights @ value
        else:
            output = functional.scaled_dot_product_attention(query, key, value, attn_mask=hidden)
        return self.o_proj(output.permute(2, 0, 1, 3).flatten(2))

    def _queries_keys_values(self, heads: torch.Tensor) -> Sequence[torch.Tensor]:
        """Of `[length, batch, 3 × heads, dim]`."""
        return heads.chunk(3, dim=2)


class PostNormLayer(EncoderLayer):
    """BERT's: LayerNorm after each addition, GELU."""

    def __init__(self, *, model: Bert, **arguments: Any) -> None:
        super().__init__(model=model, **arguments)
        width, inner = model.hidden_size, model.feed_forward_size
        self.attention_norm = _layer_norm(model)
        self.up_proj = TensorParallelColumnLinear(width, inner, **self.options)
        self.down_proj = TensorParallelRowLinear(inner, width, **self.options)
        self.output_norm = _layer_norm(model)

    def _layer(self, states: torch.Tensor, mask: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        attended = self._attention(states, mask, samples)
        states = self.attention_norm(states + self._dropped(attended, "attention", samples))
        fed_forward = self.down_proj(functional.gelu(self.up_proj(states)))
        return self.output_norm(states + self._dropped(fed_forward, "feed-forward", samples))


class PreNormLayer(EncoderLayer):
    """ModernBERT's: LayerNorm before attention and feed-forward layer, rotary positions, GELU with a gate (GeGLU)."""

    def __init__(self, *, model: ModernBert, index: int, rotary: RotaryEmbedding, **arguments: Any) -> None:
        super().__init__(model=model, index=index, **arguments)
        width, inner = model.hidden_size, model.feed_forward_size
        self.rotary = rotary
        # What the first layer reads comes out of the embeddings' norm.
        self.attention_norm = _layer_norm(model) if index else nn.Identity()
        self.feed_forward_norm = _layer_norm(model)
        self.gate_up_proj = TensorParallelColumnLinear(
            width, 2 * inner, contiguous_chunks=(inner, inner), **self.options
        )
        self.down_proj = TensorParallelRowLinear(inner, width, **self.options)

    def _layer(self, states: torch.Tensor, mask: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        attended = self._attention(self.attention_norm(states), mask, samples)
        states = states + self._dropped(attended, "attention", samples)
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

    def __init__(
        self, *, model: Encoder, tp_pg: dist.ProcessGroup, mode: TensorParallelLinearMode, predicts_context: bool
    ) -> None:
        super().__init__()
        self.tp_pg, self.is_sequence_parallel = tp_pg, mode is TensorParallelLinearMode.REDUCE_SCATTER
        self.predicts_context = predicts_context
        width, bias = model.hidden_size, _has_biases(model)
        # BERT's layers end with a norm each.
        self.final_norm = nn.Identity() if isinstance(model, Bert) else _layer_norm(model)
        self.dense, self.layer_norm = nn.Linear(width, width, bias=bias), _layer_norm(model)
        if predicts_context:
            self.context_dense, self.context_layer_norm = nn.Linear(width, width, bias=bias), _layer_norm(model)

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, is_context: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to `[labels, 1, hidden]`, or from and to a rank's part of them."""
        if self.is_sequence_parallel:
            rank, ranks = dist.get_rank(self.tp_pg), self.tp_pg.size()
            hidden_states = differentiable_all_gather(hidden_states, group=self.tp_pg)
            positions, is_context = (x.chunk(ranks)[rank] for x in (positions, is_context))
        states = self.final_norm(hidden_states.flatten(0, 1).index_select(0, positions))
        predicting = self._transformed(states, self.dense, self.layer_norm)
        if self.predicts_context:
            context = self._transformed(states, self.context_dense, self.context_layer_norm)
            predicting = torch.where(is_context[:, None], context, predicting)
        return {"hidden_states": predicting[:, None]}

    def _transformed(self, states: torch.Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> torch.Tensor:
        return norm(functional.gelu(linear(states, dense.weight, dense.bias)))


def _has_biases(model: Encoder) -> bool:
    return isinstance(model, Bert)


def _layer_norm(model: Encoder) -> nn.LayerNorm:
    return nn.LayerNorm(model.hidden_size, eps=model.layer_norm_eps, bias=_has_biases(model))
