"""The loss of a vocabulary that tensor-parallel ranks share.

nanotron's own cross-entropy makes a second tensor of the logits' size and passes over both five times. This one works
in the logits themselves, a few rows at a time, and knows the z-loss.
"""

from typing import Any

import torch
from nanotron import distributed as dist

_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Logits that are worked on at once: on a CPU few enough to stay in a core's cache from one pass to the next, on a GPU
enough to keep it busy."""


class Loss(torch.nn.Module):
    """Mean cross-entropy of the tokens, and the z-loss."""

    def __init__(self, tensor_group: dist.ProcessGroup, z_loss: float, vocab_size: int) -> None:
        super().__init__()
        self.tensor_group = tensor_group
        self.z_loss = z_loss
        self.vocab_size = vocab_size

    def forward(
        self, sharded_logits: torch.Tensor, label_ids: torch.Tensor, label_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What to minimise, and its parts.

        Args:
            sharded_logits: `[length, batch, vocabulary / ranks]`, float32; overwritten in the backward pass.
            label_ids: `[batch, length]`.
            label_mask: `[batch, length]`, all true: every token of a training sequence counts.

        Returns:
            `loss` is `cross_entropy + z_loss`, all scalars; `z_loss` is the mean of the squared logarithm of the
            softmax's denominator, times its weight (Chowdhery et al. 2022, PaLM).
        """
        logits = sharded_logits.flatten(0, 1)
        losses, squares = CrossEntropy.apply(logits, label_ids.t().flatten(), self.tensor_group, self.vocab_size)
        cross_entropy = losses.mean()
        z_loss = self.z_loss * squares.mean()
        return {"loss": cross_entropy + z_loss, "cross_entropy": cross_entropy, "z_loss": z_loss}


class MaskedLoss(torch.nn.Module):
    """Scaled cross-entropy of masked tokens and of those before their spans, and the z-loss."""

    def __init__(self, tensor_group: dist.ProcessGroup, z_loss: float, vocab_size: int) -> None:
        super().__init__()
        self.tensor_group = tensor_group
        self.z_loss = z_loss
        self.vocab_size = vocab_size

    def forward(
        self,
        sharded_logits: torch.Tensor,
        label_ids: torch.Tensor,
        label_scales: torch.Tensor,
        is_context: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """What to minimise, and its parts.

        Args:
            sharded_logits: `[labels, 1, vocabulary / ranks]`, float32; overwritten in the backward pass.
            label_ids: `[1, labels]`.
            label_scales: `[1, labels]`, float32: how much each label counts.
            is_context: `[labels]`, whether a label is the token before a span.

        Returns:
            `loss` is `cross_entropy + context + z_loss`, all scalars; `z_loss` is of the masked tokens.
        """
        losses, squares = CrossEntropy.apply(sharded_logits[:, 0], label_ids[0], self.tensor_group, self.vocab_size)
        scales = label_scales[0]
        of_masked = scales.masked_fill(is_context, 0)
        cross_entropy, context = (of_masked * losses).sum(), ((scales - of_masked) * losses).sum()
        z_loss = self.z_loss * (of_masked * squares).sum()
        loss = cross_entropy + context + z_loss
        return {"loss": loss, "cross_entropy": cross_entropy, "context": context, "z_loss": z_loss}


class CrossEntropy(torch.autograd.Function):
    """Cross-entropy and squared logarithm of the softmax's denominator of every token, `[tokens]` each."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, group: dist.ProcessGroup, vocab_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From float32 `logits` `[tokens, padded vocabulary / ranks]` and `labels` `[tokens]`.

        The padding, from `vocab_size` on, takes no part: it is no token.
        """
        width = logits.shape[1]
        # Nothing else reads the logits, so they can be overwritten behind autograd's back.
        logits.data[:, max(0, vocab_size - dist.get_rank(group) * width) :] = float("-inf")
        chunk = max(1, _AT_ONCE[logits.device.type] // width)
        local = labels - dist.get_rank(group) * width
        is_here = (local >= 0) & (local < width)
        local = local.clamp(0, width - 1)[:, None]
        picked = logits.gather(1, local)[:, 0]
        if group.size() == 1:
            log_partition = torch.cat([torch.logsumexp(rows, 1) for rows in logits.split(chunk)])
        else:
            largest = logits.amax(1, keepdim=True)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
            pieces = zip(logits.split(chunk), largest.split(chunk), strict=True)
            sums = torch.cat([(rows - top).exp_().sum(1) for rows, top in pieces])
            sums_and_picked = torch.stack((sums, picked.where(is_here, 0)))
            dist.all_reduce(sums_and_picked, group=group)
            log_partition, picked = largest[:, 0] + sums_and_picked[0].log(), sums_and_picked[1]
        ctx.chunk = chunk
        ctx.save_for_backward(logits, local, is_here, log_partition)
        return log_partition - picked, log_partition.square()

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, grad_square: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The softmax, weighted, less the weight at every label's place."""
        logits, local, is_here, log_partition = ctx.saved_tensors
        # For the same reason their memory can hold the gradient.
        gradient = logits.detach()
        weight = grad_loss + 2 * log_partition * grad_square
        pieces = (tensor.split(ctx.chunk) for tensor in (gradient, log_partition[:, None], weight[:, None]))
        for rows, shift, scale in zip(*pieces, strict=True):
            rows.sub_(shift).exp_().mul_(scale)
        # Each row has one place, so there is no order to add in, as `scatter_add_` has on a GPU.
        places = torch.arange(len(local), device=local.device), local[:, 0]
        gradient[places] -= grad_loss.where(is_here, 0)
        return gradient, None, None, None
