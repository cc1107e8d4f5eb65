"""The output layer and its loss, a piece of the tokens at a time.

The logits of a micro-batch are by far its largest tensor, and nothing needs them twice. So each piece of them gives its
losses and, while it is there, its part of the gradients of what the layer reads and of its weights, all in the forward
pass (as Hsu et al. 2024, Liger Kernel). What waits for the backward pass is as large as those and no larger.
"""

from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import (
    differentiable_all_gather,
    differentiable_identity,
)
from nanotron.parallel.tensor_parallel.enum import TensorParallelLinearMode
from nanotron.parallel.tensor_parallel.nn import TensorParallelColumnLinear

from llmrecipe.engines.nanotron.port.linear import add_weight_gradient, linear

PIECE = {"cpu": 1024, "cuda": 2048}
"""Tokens of a piece, by device. With fewer, going over the weights' gradient for every piece would cost more than the
product that is added to it."""


class OutputLayer(TensorParallelColumnLinear):
    """From states to the loss of a vocabulary that tensor-parallel ranks share."""

    def __init__(
        self,
        *,
        hidden_size: int,
        rows: int,
        vocab_size: int,
        tensor_group: dist.ProcessGroup,
        mode: TensorParallelLinearMode,
        z_loss: float,
        bias: bool = False,
    ) -> None:
        """`rows` are those of the vocabulary with its padding, which begins at `vocab_size` and is no token."""
        super().__init__(hidden_size, rows, pg=tensor_group, mode=mode, bias=bias)
        self.vocab_size = vocab_size
        self.z_loss = z_loss

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """All of them at once, float32 `[…, vocabulary / ranks]`, padding included."""
        # Weights may be stored in a narrower format than the states are computed in.
        bias = None if self.bias is None else self.bias.to(states.dtype)
        return linear(states, self.weight.to(states.dtype), bias).float()

    def losses(
        self, states: torch.Tensor, labels: torch.Tensor, scales: torch.Tensor, z_scales: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What to minimise, and what it is made of.

        Args:
            states: `[length, batch, hidden]`, or this rank's part of the length.
            labels: `[length × batch]`.
            scales: `[length × batch]`, float32: how much the cross-entropy of each token counts.
            z_scales: the same for the squared logarithm of its softmax's denominator.

        Returns:
            The sum of both, a scalar, which alone has a gradient; and of each token, `[length × batch]`, its
            cross-entropy and that square.
        """
        whole = (
            differentiable_identity if self.mode is TensorParallelLinearMode.ALL_REDUCE else differentiable_all_gather
        )
        states = whole(states, group=self.pg).flatten(0, 1)
        return _Losses.apply(states, self.weight, self.bias, labels, scales, z_scales, self, torch.is_grad_enabled())


class CausalOutput(OutputLayer):
    """The output layer with the mean cross-entropy of the tokens, and the z-loss."""

    def forward(
        self, hidden_states: torch.Tensor, label_ids: torch.Tensor, label_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What to minimise, and its parts.

        Args:
            hidden_states: `[length, batch, hidden]`, or this rank's part of the length.
            label_ids: `[batch, length]`.
            label_mask: `[batch, length]`, whether a token counts.

        Returns:
            `loss` is `cross_entropy + z_loss`, all scalars; `z_loss` is the mean of the squared logarithm of the
            softmax's denominator, times its weight (Chowdhery et al. 2022, PaLM).
        """
        scales = label_mask.t().flatten() / label_mask.sum()
        loss, losses, squares = self.losses(hidden_states, label_ids.t().flatten(), scales, self.z_loss * scales)
        cross_entropy, z_loss = (scales * losses).sum(), self.z_loss * (scales * squares).sum()
        return {"loss": loss, "cross_entropy": cross_entropy, "z_loss": z_loss}


class MaskedOutput(OutputLayer):
    """The output layer with the scaled cross-entropy of masked tokens and of those before spans, and the z-loss."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        label_ids: torch.Tensor,
        label_scales: torch.Tensor,
        is_context: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """What to minimise, and its parts.

        Args:
            hidden_states: `[labels, 1, hidden]`, or this rank's part of the labels.
            label_ids: `[1, labels]`.
            label_scales: `[1, labels]`, float32: how much each label counts.
            is_context: `[labels]`, whether a label is the token before a span.

        Returns:
            `loss` is `cross_entropy + context + z_loss`, all scalars; `z_loss` is of the masked tokens.
        """
        scales = label_scales[0]
        of_masked = scales.masked_fill(is_context, 0)
        loss, losses, squares = self.losses(hidden_states, label_ids[0], scales, self.z_loss * of_masked)
        cross_entropy, context = (of_masked * losses).sum(), ((scales - of_masked) * losses).sum()
        z_loss = self.z_loss * (of_masked * squares).sum()
        return {"loss": loss, "cross_entropy": cross_entropy, "context": context, "z_loss": z_loss}


class _Losses(torch.autograd.Function):
    """`OutputLayer.losses` of states that the rank has whole, `[tokens, hidden]`."""

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        scales: torch.Tensor,
        z_scales: torch.Tensor,
        layer: OutputLayer,
        learns: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        losses, squares = torch.empty_like(scales), torch.empty_like(scales)
        for_states = torch.empty_like(states) if learns else None
        for_weight = for_bias = None
        for start in range(0, len(states), PIECE[states.device.type]):
            piece = slice(start, start + PIECE[states.device.type])
            logits = linear(states[piece], weight, bias).float()
            losses[piece], squares[piece] = _evaluated(logits, labels[piece], scales[piece], z_scales[piece], layer)
            if for_states is not None:
                gradient = logits.to(weight.dtype)
                for_states[piece] = linear(gradient, weight.t())
                for_weight = add_weight_gradient(for_weight, gradient, states[piece])
                if bias is not None:
                    for_bias = logits.sum(0) if for_bias is None else for_bias.add_(logits.sum(0))
                del gradient
            # Before there are others.
            del logits
        found = (for_states, for_weight if for_weight is None else for_weight.t(), for_bias)
        ctx.gradients = [x if x is None else x.to(weight.dtype).contiguous() for x in found]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(losses, squares)
        return (scales * losses + z_scales * squares).sum(), losses, squares

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:
        """What the forward pass has found, scaled where it is: it is there for one backward pass."""
        gradients, ctx.gradients = ctx.gradients, None
        return *(gradient if gradient is None else gradient.mul_(scale) for gradient in gradients), *[None] * 5


def _evaluated(
    logits: torch.Tensor, labels: torch.Tensor, scales: torch.Tensor, z_scales: torch.Tensor, layer: OutputLayer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and squared logarithm of the softmax's denominator of each token of a piece, `[tokens]`.

    `logits`, float32 `[tokens, padded vocabulary / ranks]`, become the gradient of their scaled sum.
    """
    first = dist.get_rank(layer.pg) * logits.shape[1]
    logits[:, max(0, layer.vocab_size - first) :] = float("-inf")
    labels = labels - first
    is_here = (labels >= 0) & (labels < logits.shape[1])
    # Each row has one place, so there is no order to add in, as `scatter_add_` has on a GPU.
    places = torch.arange(len(labels), device=labels.device), labels.where(is_here, 0)
    picked = logits[places].where(is_here, 0)
    largest = logits.amax(1)
    if layer.pg.size() > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=layer.pg)
    sums = logits.sub_(largest[:, None]).exp_().sum(1)
    if layer.pg.size() > 1:
        sums_and_picked = torch.stack((sums, picked))
        dist.all_reduce(sums_and_picked, group=layer.pg)
        sums, picked = sums_and_picked
    log_partition = largest + sums.log()
    logits.mul_(((scales + 2 * log_partition * z_scales) / sums)[:, None])
    logits[places] -= scales.where(is_here, 0)
    return log_partition - picked, log_partition.square()
