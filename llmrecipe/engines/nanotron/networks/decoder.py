"""nanotron's Llama with what it lacks.

It lacks the base of rotary positions and their scaling, heads of any width, biases and norms of queries and keys,
windows, dropout, recomputation, attention within documents, and the z-loss.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models.llama import MLP, Embedding, LlamaForTraining
from nanotron.nn.layer_norm import TritonRMSNorm
from nanotron.parallel import ParallelContext
from torch import nn
from torch.utils.checkpoint import checkpoint

from llmrecipe.engines.models.architecture import RunOptions
from llmrecipe.engines.nanotron.networks.activation import SwiGLU
from llmrecipe.engines.nanotron.networks.attention import CausalAttention
from llmrecipe.engines.nanotron.networks.dropout import Dropper
from llmrecipe.engines.nanotron.networks.loss import CausalOutput
from llmrecipe.engines.nanotron.networks.micro_batch import MicroBatchInFlight, Placed, Reach
from llmrecipe.engines.nanotron.networks.rotary import RotaryEmbedding, rotary_of
from llmrecipe.recipe.networks.decoder import Decoder


class EmbeddingWithDropout(Embedding):
    """nanotron's embedding, with dropout."""

    def __init__(self, *, dropper: Dropper, batch: MicroBatchInFlight, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.dropper = dropper
        self.batch = batch

    def forward(self, input_ids: torch.Tensor, input_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[batch, length]` to `[length, batch, hidden]`."""
        embedded = super().forward(input_ids, input_mask)["input_embeds"]
        rate = self.dropper.rates.embedding
        return {"input_embeds": self.dropper.of_tokens(embedded, rate, "embedding", self.batch.samples)}


class DecoderLayer(nn.Module):
    """RMSNorm before attention and before nanotron's feed-forward layer, each added to what it has read."""

    def __init__(
        self,
        *,
        config: LlamaConfig,
        parallel_config: ParallelismArgs,
        tp_pg: dist.ProcessGroup,
        layer_idx: int,
        dropper: Dropper,
        batch: MicroBatchInFlight,
        network: Decoder,
        rotary: RotaryEmbedding,
        options: RunOptions,
    ) -> None:
        super().__init__()
        self.window = network.window
        self.place = f"layer {layer_idx}"
        self.dropper = dropper
        self.batch = batch
        self.recompute = options.recompute
        self.restart_at_documents = options.restart_at_documents
        self.input_layernorm = TritonRMSNorm(network.hidden_size, eps=network.rms_norm_eps)
        self.attn = CausalAttention(network, rotary, tp_pg, parallel_config.tp_mode)
        self.post_attention_layernorm = TritonRMSNorm(network.hidden_size, eps=network.rms_norm_eps)
        self.mlp = MLP(config=config, parallel_config=parallel_config, tp_pg=tp_pg)
        self.mlp.split_silu_mul = SwiGLU()
        if options.compiled:
            self._layer = torch.compile(self._layer, dynamic=False)  # type: ignore[method-assign]

    def forward(self, hidden_states: torch.Tensor, sequence_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`[length, batch, hidden]` to the same; the mask is handed on."""
        self.attn.rotary.prepare(sequence_mask.shape[1], hidden_states.device)
        # Bound now: at the time of a recomputation the network may be reading another micro-batch.
        reach = self.batch.reach(sequence_mask, restart_at_documents=self.restart_at_documents, window=self.window)
        layer = functools.partial(self._layer, samples=self.dropper.samples(self.batch), reach=reach)
        if self.recompute and torch.is_grad_enabled():
            hidden_states = checkpoint(layer, hidden_states, use_reentrant=False, preserve_rng_state=False)
        else:
            hidden_states = layer(hidden_states)
        return {"hidden_states": hidden_states, "sequence_mask": sequence_mask}

    def _layer(self, states: torch.Tensor, samples: Sequence[int], reach: Reach) -> torch.Tensor:
        attended = self._attention(self.input_layernorm(states), samples, reach)
        states = states + self._dropped(attended, "attention", samples)
        fed_forward = self.mlp(self.post_attention_layernorm(states))["hidden_states"]
        return states + self._dropped(fed_forward, "feed-forward", samples)

    def _attention(self, states: torch.Tensor, samples: Sequence[int], reach: Reach) -> torch.Tensor:
        drop_attention = None
        if self.dropper.rates.attention and torch.is_grad_enabled():
            drop_attention = functools.partial(self.dropper.of_attention, place=self.place, samples=samples)
        return self.attn(states, reach, drop_attention)

    def _dropped(self, states: torch.Tensor, part: str, samples: Sequence[int]) -> torch.Tensor:
        rate = self.dropper.rates.residual
        # Compiled layers share their code, which may not know a layer's place.
        return self.dropper.of_tokens(states, rate, f"{self.place}, {part}", samples) if rate else states


class DecoderNetwork(LlamaForTraining):
    """nanotron's pipeline of blocks, with some of the blocks replaced by those of this module."""

    layer: type[DecoderLayer] = DecoderLayer
    """The class of its layers."""

    def __init__(
        self,
        *,
        config: LlamaConfig,
        parallel_context: ParallelContext,
        parallel_config: ParallelismArgs,
        random_states: Any = None,
        network: Decoder,
        options: RunOptions,
    ) -> None:
        super().__init__(config=config, parallel_context=parallel_context, parallel_config=parallel_config)
        self.network = network
        self.batch = MicroBatchInFlight()
        dropper = Dropper.of(options, parallel_context.tp_pg, parallel_config.tp_mode)
        shared: dict[str, Any] = {"batch": self.batch, "dropper": dropper}
        self.model.token_position_embeddings.module_builder = EmbeddingWithDropout
        self.model.token_position_embeddings.module_kwargs |= shared
        rotary = rotary_of(network)
        for block in self.model.decoder:
            block.module_builder = self.layer
            block.module_kwargs |= shared | {"network": network, "rotary": rotary, "options": options}
        output = self.model.lm_head
        output.module_builder = CausalOutput
        output.module_kwargs = {
            "hidden_size": config.hidden_size,
            "rows": config.vocab_size,
            "vocab_size": options.vocab_size,
            "tensor_group": parallel_context.tp_pg,
            "mode": parallel_config.tp_mode,
            "z_loss": options.z_loss,
        }
        output.module_input_keys = {"hidden_states", "label_ids", "label_mask"}
        output.module_output_keys = {"loss", "cross_entropy", "z_loss"}
        # What nanotron has between its logits and its loss.
        del self.model.cast_to_fp32, self.loss

    def forward(
        self,
        input_ids: Placed,
        input_mask: Placed,
        label_ids: Placed,
        label_mask: Placed,
        samples: Sequence[int],
    ) -> dict[str, Placed]:
        """The loss and its parts; `samples` are the numbers of the batch's samples, known on every rank."""
        self.batch.samples = samples
        states = self.states(input_ids, input_mask)
        return self.model.lm_head(hidden_states=states, label_ids=label_ids, label_mask=label_mask)

    def states(self, input_ids: Placed, input_mask: Placed) -> Placed:
        """What the output layer reads, `[length, batch, hidden]`, from `[batch, length]`."""
        embedded = self.model.token_position_embeddings(input_ids=input_ids, input_mask=input_mask)["input_embeds"]
        states = {"hidden_states": embedded, "sequence_mask": input_mask}
        for layer in self.model.decoder:
            states = layer(**states)
        return self.model.final_layer_norm(input=states["hidden_states"])["hidden_states"]

    def get_block_compute_costs(self) -> dict[Any, int]:
        """Multiplications by token, by which nanotron spreads the blocks over a pipeline."""
        output = self.config.hidden_size * self.config.vocab_size
        return {self.layer: self.network.layer_cost, self.model.lm_head.module_builder: output}
