"""An encoder of nanotron's parts: its tensor-parallel layers and embedding, in its pipeline blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nanotron.config import LlamaConfig, ParallelismArgs
from nanotron.models import NanotronModel
from nanotron.parallel import ParallelContext
from nanotron.parallel.pipeline_parallel.block import PipelineBlock
from nanotron.parallel.pipeline_parallel.p2p import P2P
from torch import nn

from llmrecipe.engines.models.architecture import RunOptions
from llmrecipe.engines.nanotron.networks.dropout import Dropper
from llmrecipe.engines.nanotron.networks.encoder_blocks import Blocks, Head, Surroundings
from llmrecipe.engines.nanotron.networks.loss import MaskedOutput
from llmrecipe.engines.nanotron.networks.micro_batch import MicroBatchInFlight, Placed
from llmrecipe.recipe.networks.network import Network


class EncoderNetwork(NanotronModel):
    """An encoder with its masked-token head."""

    def __init__(
        self,
        *,
        config: LlamaConfig,
        parallel_context: ParallelContext,
        parallel_config: ParallelismArgs,
        random_states: Any = None,
        network: Network,
        blocks: Blocks,
        options: RunOptions,
    ) -> None:
        super().__init__()
        self.parallel_context = parallel_context
        self.parallel_config = parallel_config
        # What nanotron's trainer reads the sizes of.
        self.config = config
        self.batch = MicroBatchInFlight()
        self.around = Surroundings(
            network=network,
            blocks=blocks,
            batch=self.batch,
            tensor_group=parallel_context.tp_pg,
            tensor_parallel_mode=parallel_config.tp_mode,
            dropper=Dropper.of(options, parallel_context.tp_pg, parallel_config.tp_mode),
            recompute=options.recompute,
            compiled=options.compiled,
            predicts_context=options.predicts_context,
            pads=options.pads,
        )
        p2p = P2P(parallel_context.pp_pg, device=torch.device(options.device))
        self.model = Stack(self.around, p2p, config.vocab_size, options)

    def forward(
        self,
        input_ids: Placed,
        input_mask: Placed,
        positions: Placed,
        is_context: Placed,
        label_ids: Placed,
        label_scales: Placed,
        samples: Sequence[int],
    ) -> dict[str, Placed]:
        """The loss and its parts for a batch of `masked_data.MaskedReader`."""
        self.batch.samples = samples
        states = self.model(input_ids=input_ids, input_mask=input_mask, positions=positions, is_context=is_context)
        return self.model.lm_head(
            hidden_states=states, label_ids=label_ids, label_scales=label_scales, is_context=is_context
        )

    def init_model_randomly(self, config: Any) -> None:
        """Never: every run starts from weights on disk."""
        raise RuntimeError("an encoder starts from weights on disk")

    def get_embeddings_lm_head_tied_names(self) -> list[str]:
        """The two names of the token embedding's weights."""
        return ["model.embeddings.pp_block.token_embedding.weight", "model.lm_head.pp_block.weight"]

    def get_block_compute_costs(self) -> dict[Any, int]:
        """Multiplications by token, by which nanotron spreads the blocks over a pipeline."""
        output = self.config.hidden_size * self.config.vocab_size
        return {self.around.blocks.layer: self.around.network.layer_cost, MaskedOutput: output}

    def get_flops_per_sec(self, *_: Any) -> tuple[float, float]:
        """Not measured."""
        return 0.0, 0.0


class Stack(nn.Module):
    """The blocks of an encoder."""

    def __init__(self, around: Surroundings, p2p: P2P, vocab_size: int, options: RunOptions) -> None:
        super().__init__()
        self.p2p = p2p
        given = {"around": around}
        self.embeddings = self._block(
            around.blocks.embeddings, given | {"vocab_size": vocab_size}, {"input_ids"}, {"hidden_states"}
        )
        states = {"hidden_states", "mask"}
        self.encoder = nn.ModuleList(
            self._block(around.blocks.layer, given | {"index": index}, states, states)
            for index in range(around.network.num_layers)
        )
        self.head = self._block(Head, given, {"hidden_states", "positions", "is_context"}, {"hidden_states"})
        output = {
            "hidden_size": around.network.hidden_size,
            "rows": vocab_size,
            "vocab_size": options.vocab_size,
            "tensor_group": around.tensor_group,
            "mode": around.tensor_parallel_mode,
            "z_loss": options.z_loss,
            "bias": True,
        }
        self.lm_head = self._block(
            MaskedOutput,
            output,
            {"hidden_states", "label_ids", "label_scales", "is_context"},
            {"loss", "cross_entropy", "context", "z_loss"},
        )

    def _block(self, builder: Any, arguments: Mapping[str, Any], inputs: set[str], outputs: set[str]) -> PipelineBlock:
        return PipelineBlock(
            p2p=self.p2p,
            module_builder=builder,
            module_kwargs=dict(arguments),
            module_input_keys=inputs,
            module_output_keys=outputs,
        )

    def forward(self, input_ids: Placed, input_mask: Placed, positions: Placed, is_context: Placed) -> Placed:
        """What the output layer reads, at some places of a batch.

        Args:
            input_ids: `[batch, length]`.
            input_mask: `[batch, length]`, true where there is a token to be read.
            positions: `[labels]`, `place × batch + sample`.
            is_context: `[labels]`, whether the token before the place is to be predicted.

        Returns:
            `[labels, 1, hidden]`, or a rank's part of the labels.
        """
        states = self.embeddings(input_ids=input_ids) | {"mask": input_mask}
        for layer in self.encoder:
            states = layer(**states)
        head = self.head(hidden_states=states["hidden_states"], positions=positions, is_context=is_context)
        return head["hidden_states"]
