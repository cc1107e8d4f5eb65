"""An encoder of nanotron's parts: its tensor-parallel layers and embedding, in its pipeline blocks."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models import NanotronModel
from nanotron.parallel import ParallelContext
from nanotron.parallel.pipeline_parallel.block import PipelineBlock
from nanotron.parallel.pipeline_parallel.p2p import P2P
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

from llmrecipe.engines.nanotron.dropout import Dropout
from llmrecipe.engines.nanotron.linear import linear
from llmrecipe.engines.nanotron.loss import MaskedLoss
from llmrecipe.engines.nanotron.network import MicroBatchInFlight, Placed
from llmrecipe.recipe import training
from llmrecipe.recipe.model import Bert


class BertNetwork(NanotronModel):
    """BERT with its masked-token head."""

    def __init__(
        self,
        *,
        config: LlamaConfig,
        parallel_context: ParallelContext,
        parallel_config: ParallelismArgs,
        random_states: Any = None,
        model: Bert,
        device: str,
        dropout: training.Dropout,
        seed: int,
        z_loss: float,
        recompute: bool,
        predicts_context: bool,
    ) -> None:
        super().__init__()
        self.parallel_context = parallel_context
        self.parallel_config = parallel_config
        # What nanotron's trainer reads the sizes of.
        self.config = config
        self.batch = MicroBatchInFlight()
        mode = parallel_config.tp_mode
        drop = Dropout(
            rates=dropout,
            seed=seed,
            tp_pg=parallel_context.tp_pg,
            is_sequence_parallel=mode is TensorParallelLinearMode.REDUCE_SCATTER,
        )
        shared = {"model": model, "batch": self.batch, "tp_pg": parallel_context.tp_pg, "mode": mode, "dropout": drop}
        self.model = Stack(parallel_context, device, config.vocab_size, recompute, predicts_context, shared)
        self.loss = PipelineBlock(
            p2p=self.model.p2p,
            module_builder=MaskedLoss,
            module_kwargs={"tp_pg": parallel_context.tp_pg, "z_loss": z_loss},
            module_input_keys={"sharded_logits", "label_ids", "label_weights", "is_context"},
            module_output_keys={"loss", "cross_entropy", "context", "z_loss"},
        )

    def forward(
        self,
        input_ids: Placed,
        input_mask: Placed,
        positions: Placed,
        is_context: Placed,
        label_ids: Placed,
        label_weights: Placed,
        samples: Sequence[int],
    ) -> dict[str, Placed]:
        """The loss and its parts for a batch of `masked_data.MaskedReader`."""
        self.batch.samples = samples
        logits = self.model(input_ids=input_ids, input_mask=input_mask, positions=positions, is_context=is_context)
        return self.loss(sharded_logits=logits, label_ids=label_ids, label_weights=label_weights, is_context=is_context)

    def init_model_randomly(self, config: Any) -> None:
        """Never: every training starts from the weights of `bert.initial_weights`."""
        raise RuntimeError("an encoder starts from initial weights on disk")

    def get_embeddings_lm_head_tied_names(self) -> list[str]:
        """The two names of the token embedding's weights."""
        return ["model.embeddings.pp_block.token_embedding.weight", "model.lm_head.pp_block.weight"]

    def get_block_compute_costs(self) -> dict[Any, int]:
        """Multiplications by token, by which nanotron spreads the blocks over a pipeline."""
        width = self.config.hidden_size
        return {
            EncoderLayer: 4 * width**2 + 2 * width * self.config.intermediate_size,
            TensorParallelColumnLinear: width * self.config.vocab_size,
        }

    def get_flops_per_sec(self, *_: Any) -> tuple[float, float]:
        """Not measured."""
        return 0.0, 0.0


class Stack(nn.Module):
    """The blocks of an encoder, from tokens to the logits of each rank's part of the vocabulary."""

    def __init__(
        self,
        context: ParallelContext,
        device: str,
        vocab_size: int,
        recompute: bool,
        predicts_context: bool,
        shared: dict[str, Any],
    ) -> None:
        super().__init__()
        self.p2p = P2P(context.pp_pg, device=torch.device(device))
        model: Bert = shared["model"]
        self.embeddings = self._block(Embeddings, shared | {"vocab_size": vocab_size}, {"input_ids"}, {"hidden_states"})
        states = {"hidden_states", "mask"}
        self.encoder = nn.ModuleList(
            self._block(EncoderLayer, shared | {"place": f"layer {index}", "recompute": recompute}, states, states)
            for index in range(model.num_layers)
        )
        head = {name: shared[name] for name in ("model", "tp_pg", "mode")} | {"predicts_context": predicts_context}
        self.head = self._block(Head, head, {"hidden_states", "positions", "is_context"}, {"hidden_states"})
        output = {
            "in_features": model.hidden_size,
            "out_features": vocab_size,
            "pg": shared["tp_pg"],
            "mode": shared["mode"],
            "bias": True,
        }
        self.lm_head = self._block(TensorParallelColumnLinear, output, {"x"}, {"logits"})
        self.cast_to_fp32 = self._block(lambda: lambda x: x.float(), {}, {"x"}, {"output"})

    def _block(self, builder: Any, arguments: dict[str, Any], inputs: set[str], outputs: set[str]) -> PipelineBlock:
        return PipelineBlock(
            p2p=self.p2p,
            module_builder=builder,
            module_kwargs=arguments,
            module_input_keys=inputs,
            module_output_keys=outputs,
        )

    def forward(self, input_ids: Placed, input_mask: Placed, positions: Placed, is_context: Placed) -> Placed:
        """Predictions at some places of a batch.

        Args:
            input_ids: `[batch, length]`.
            input_mask: `[batch, length]`, true where there is a token to be read.
            positions: `[labels]`, `place × batch + sample`.
            is_context: `[labels]`, whether the token before the place is to be predicted.

        Returns:
            Logits, float32 `[labels, 1, vocabulary / ranks]`.
        """
        states = self.embeddings(input_ids=input_ids) | {"mask": input_mask}
        for layer in self.encoder:
            states = layer(**states)
        predicting = self.head(hidden_states=states["hidden_states"], positions=positions, is_context=is_context)
        return self.cast_to_fp32(x=self.lm_head(x=predicting["hidden_states"])["logits"])["output"]


class Embeddings(nn.Module):
    """Tokens, positions and segment 0, added and normalised."""

    def __init__(
        self,
        *,
        model: Bert,
        vocab_size: int,
        batch: MicroBatchInFlight,
        tp_pg: dist.ProcessGroup,
        mode: TensorParallelLinearMode,
        dropout: Dropout,
    ) -> None:
        super().__init__()
        self.batch, self.tp_pg, self.dropout = batch, tp_pg, dropout
        self.token_embedding = TensorParallelEmbedding(vocab_size, model.hidden_size, pg=tp_pg, mode=mode)
        self.position_embedding = nn.Embedding(model.max_position_embeddings, model.hidden_size)
        self.segment_embedding = nn.Embedding(2, model.hidden_size)
        self.layer_norm = nn.LayerNorm(model.hidden_size, eps=model.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[batch, length]` to `[length, batch, hidden]`, or a rank's part of the length."""
        tokens = self.token_embedding(input_ids.t())
        positions = self.position_embedding.weight[: input_ids.shape[1]]
        if self.dropout.is_sequence_parallel:
            positions = positions.chunk(self.tp_pg.size())[dist.get_rank(self.tp_pg)]
        states = self.layer_norm(tokens + (positions + self.segment_embedding.weight[0])[:, None])
        rate = self.dropout.rates.embedding
        return {"hidden_states": self.dropout.of_tokens(states, rate, "embedding", self.batch.samples)}


class EncoderLayer(nn.Module):
    """Attention in both directions and a feed-forward layer, each followed by addition and LayerNorm."""

    def __init__(
        self,
        *,
        model: Bert,
        batch: MicroBatchInFlight,
        tp_pg: dist.ProcessGroup,
        mode: TensorParallelLinearMode,
        dropout: Dropout,
        place: str,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.batch, self.dropout, self.place, self.recompute = batch, dropout, place, recompute
        self.head_dim = model.hidden_size // model.num_attention_heads
        width, inner = model.hidden_size, model.feed_forward_size
        options = {"pg": tp_pg, "mode": mode, "bias": True}
        self.qkv_proj = TensorParallelColumnLinear(width, 3 * width, contiguous_chunks=(width,) * 3, **options)
        self.o_proj = TensorParallelRowLinear(width, width, **options)
        self.attention_norm = nn.LayerNorm(width, eps=model.layer_norm_eps)
        self.up_proj = TensorParallelColumnLinear(width, inner, **options)
        self.down_proj = TensorParallelRowLinear(inner, width, **options)
        self.output_norm = nn.LayerNorm(width, eps=model.layer_norm_eps)

    def forward(self, hidden_states: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to the same; the mask is handed on."""
        # Bound now: at the time of a recomputation the network may be reading another micro-batch.
        layer = functools.partial(self._layer, mask=mask, samples=self.batch.samples)
        if self.recompute and torch.is_grad_enabled():
            hidden_states = checkpoint(layer, hidden_states, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden_states = layer(hidden_states)
        return {"hidden_states": hidden_states, "mask": mask}

    def _layer(self, states: torch.Tensor, mask: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        rate = self.dropout.rates.residual
        attended = self.dropout.of_tokens(
            self._attention(states, mask, samples), rate, f"{self.place}, attention", samples
        )
        states = self.attention_norm(states + attended)
        fed_forward = self.down_proj(functional.gelu(self.up_proj(states)))
        fed_forward = self.dropout.of_tokens(fed_forward, rate, f"{self.place}, feed-forward", samples)
        return self.output_norm(states + fed_forward)

    def _attention(self, states: torch.Tensor, mask: torch.Tensor, samples: Sequence[int]) -> torch.Tensor:
        heads = self.qkv_proj(states).unflatten(-1, (3, -1, self.head_dim))
        query, key, value = heads.permute(2, 1, 3, 0, 4)
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


class Head(nn.Module):
    """The states at the places that something is predicted from, through the dense layer of what is predicted there.

    The output layer comes after it, for these places alone: a seventh of the tokens, where only masked ones count.
    """

    def __init__(
        self, *, model: Bert, tp_pg: dist.ProcessGroup, mode: TensorParallelLinearMode, predicts_context: bool
    ) -> None:
        super().__init__()
        self.tp_pg, self.is_sequence_parallel = tp_pg, mode is TensorParallelLinearMode.REDUCE_SCATTER
        self.predicts_context = predicts_context
        width, eps = model.hidden_size, model.layer_norm_eps
        self.dense, self.layer_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        if predicts_context:
            self.context_dense, self.context_layer_norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)

    def forward(
        self, hidden_states: torch.Tensor, positions: torch.Tensor, is_context: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to `[labels, 1, hidden]`, or from and to a rank's part of them."""
        if self.is_sequence_parallel:
            rank, ranks = dist.get_rank(self.tp_pg), self.tp_pg.size()
            hidden_states = differentiable_all_gather(hidden_states, group=self.tp_pg)
            positions, is_context = (x.chunk(ranks)[rank] for x in (positions, is_context))
        states = hidden_states.flatten(0, 1).index_select(0, positions)
        predicting = self._transformed(states, self.dense, self.layer_norm)
        if self.predicts_context:
            context = self._transformed(states, self.context_dense, self.context_layer_norm)
            predicting = torch.where(is_context[:, None], context, predicting)
        return {"hidden_states": predicting[:, None]}

    def _transformed(self, states: torch.Tensor, dense: nn.Linear, norm: nn.LayerNorm) -> torch.Tensor:
        return norm(functional.gelu(linear(states, dense.weight, dense.bias)))
