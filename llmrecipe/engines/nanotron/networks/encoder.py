"""An encoder of nanotron's parts: its tensor-parallel layers and embedding, in its pipeline blocks."""

from collections.abc import Sequence
from typing import Any

import torch
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models import NanotronModel
from nanotron.parallel import ParallelContext
from nanotron.parallel.pipeline_parallel.block import PipelineBlock
from nanotron.parallel.pipeline_parallel.p2p import P2P
from nanotron.parallel.tensor_parallel.nn import (
    TensorParallelColumnLinear,
    TensorParallelLinearMode,
)
from torch import nn

from llmrecipe.engines.nanotron.networks.decoder import MicroBatchInFlight, Placed
from llmrecipe.engines.nanotron.networks.dropout import Dropout
from llmrecipe.engines.nanotron.networks.encoder_blocks import (
    BertEmbeddings,
    Embeddings,
    Head,
    PostNormLayer,
    PreNormLayer,
)
from llmrecipe.engines.nanotron.networks.loss import MaskedLoss
from llmrecipe.engines.nanotron.port.attention import RotaryEmbedding
from llmrecipe.recipe import training
from llmrecipe.recipe.model import Bert, Encoder


class EncoderNetwork(NanotronModel):
    """BERT or ModernBERT with its masked-token head."""

    def __init__(
        self,
        *,
        config: LlamaConfig,
        parallel_context: ParallelContext,
        parallel_config: ParallelismArgs,
        random_states: Any = None,
        model: Encoder,
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
        self.layer_cost = model.layer_cost
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
        """Never: every training starts from the `initial_weights` of its architecture."""
        raise RuntimeError("an encoder starts from initial weights on disk")

    def get_embeddings_lm_head_tied_names(self) -> list[str]:
        """The two names of the token embedding's weights."""
        return ["model.embeddings.pp_block.token_embedding.weight", "model.lm_head.pp_block.weight"]

    def get_block_compute_costs(self) -> dict[Any, int]:
        """Multiplications by token, by which nanotron spreads the blocks over a pipeline."""
        output = self.config.hidden_size * self.config.vocab_size
        layers = dict.fromkeys((PostNormLayer, PreNormLayer), self.layer_cost)
        return layers | {TensorParallelColumnLinear: output}

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
        model: Encoder = shared["model"]
        if isinstance(model, Bert):
            embeddings, layer, of_layers = BertEmbeddings, PostNormLayer, {}
        else:
            rotary = RotaryEmbedding(model.hidden_size // model.num_attention_heads, model.rope_theta, interleaved=True)
            embeddings, layer, of_layers = Embeddings, PreNormLayer, {"rotary": rotary}
        of_layers |= shared | {"recompute": recompute}
        self.embeddings = self._block(embeddings, shared | {"vocab_size": vocab_size}, {"input_ids"}, {"hidden_states"})
        states = {"hidden_states", "mask"}
        self.encoder = nn.ModuleList(
            self._block(layer, of_layers | {"index": index}, states, states) for index in range(model.num_layers)
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
