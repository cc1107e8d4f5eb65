"""Muon: hidden matrices move along the nearest orthogonal matrix to their momentum, all other weights as under AdamW.

torch's own orthogonalises in bfloat16 alone, which processors without such units do several times slower, and knows
neither matrices that are kept as one, such as query, key and value, nor parts of a matrix on several ranks.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from nanotron import distributed as dist
from nanotron.optim.zero import ZeroDistributedOptimizer

from llmrecipe.recipe import optimizer as recipe

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the polynomial that is applied five times (Jordan et al. 2024, Muon)."""

_TIMES = 5

_RMS_OF_ADAMW = 0.2
"""Root mean square of what AdamW usually adds to a weight, over the learning rate (Liu et al. 2025, Moonlight)."""


@attrs.frozen(kw_only=True, eq=False)
class Matrix:
    """A weight that holds one hidden matrix or several, as far as this rank has them."""

    shape: torch.Size
    """Of this rank's part, `[rows, columns]`."""

    blocks: tuple[tuple[slice, ...], ...]
    """Where in this part each matrix lies."""

    dim: int
    """The dimension along which the ranks of `group` share each of them."""

    group: dist.ProcessGroup | None
    """Those ranks; None if each has the whole."""

    @classmethod
    def of(cls, parameter: Any, group: dist.ProcessGroup) -> "Matrix":
        """What nanotron says of a parameter that the ranks of `group` may share."""
        if not parameter.is_sharded:
            return cls(shape=parameter.shape, blocks=((slice(None), slice(None)),), dim=0, group=None)
        pairs = parameter.get_sharded_info().local_global_slices_pairs
        (dim,) = (dim for dim, part in enumerate(pairs[0].global_slices) if part != slice(None))
        blocks = tuple(pair.local_slices for pair in pairs)
        return cls(shape=parameter.shape, blocks=blocks, dim=dim, group=group if group.size() > 1 else None)

    def direction(self, momentum: torch.Tensor) -> torch.Tensor:
        """This rank's part of the step for its part of the momentum, in float32; called on all ranks of the group."""
        parts = [momentum.float().contiguous()]
        rank = 0
        if self.group is not None:
            rank, (own,) = dist.get_rank(self.group), parts
            parts = [torch.empty_like(own) for _ in range(self.group.size())]
            dist.all_gather(parts, own, group=self.group)
        step = torch.empty_like(parts[rank])
        for block in self.blocks:
            whole = torch.cat([part[block] for part in parts], self.dim)
            # Every matrix then moves as far as under AdamW, so that one learning rate suits all weights.
            scale = _RMS_OF_ADAMW * math.sqrt(max(whole.shape))
            step[block] = orthogonalised(whole).mul_(scale).chunk(len(parts), self.dim)[rank]
        return step


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """About `U Vᵀ` of the singular value decomposition `U S Vᵀ` of a float32 matrix: singular values near 1.

    By the Newton-Schulz iteration of Jordan et al. (2024), in bfloat16 on a GPU and in float32 on a CPU.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if is_tall else matrix
    if matrix.device.type == "cuda":
        wide = wide.bfloat16()
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_TIMES):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.T if is_tall else wide).float()


class Muon(torch.optim.Optimizer):
    """The recipe's `Muon` over parameters as nanotron hands them out: tensors, flat parts, float32 copies."""

    def __init__(self, groups: list[dict[str, Any]], optimizer: recipe.Muon, matrices: Sequence[Matrix]) -> None:
        """The first group has a parameter for each of `matrices`; the others are AdamW's."""
        super().__init__(groups, {"lr": optimizer.learning_rate})
        self.momentum = optimizer.momentum
        self.matrices = matrices
        betas = (optimizer.beta1, optimizer.beta2)
        # It shares the groups, and so their learning rates.
        self.adamw = torch.optim.AdamW(
            self.param_groups[1:], lr=optimizer.learning_rate, betas=betas, eps=optimizer.eps, fused=True
        )
        self.adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        self.adamw.step()
        hidden = self.param_groups[0]
        rate, decay = hidden["lr"], hidden["weight_decay"]
        for parameter, matrix in zip(hidden["params"], self.matrices, strict=True):
            gradient, state = parameter.grad, self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - self.momentum)
            # Nesterov's: one step further along the momentum.
            ahead = gradient.lerp(momentum, self.momentum).view(matrix.shape)
            parameter.mul_(1 - rate * decay)
            parameter.sub_(matrix.direction(ahead).view_as(parameter), alpha=rate)


def owners(matrices: Mapping[str, Matrix], ranks: int) -> dict[str, int]:
    """Which of so many replicas updates each of these weights, as a whole, by name."""
    work, found = [0] * ranks, {}
    for name in sorted(matrices, key=lambda name: (-_products(matrices[name]), name)):
        found[name] = work.index(min(work))
        work[found[name]] += _products(matrices[name])
    return found


def whole_matrices(sizes: Mapping[str, int], owners: Mapping[str, int]) -> type[ZeroDistributedOptimizer]:
    """nanotron's ZeRO, but that one rank has the whole of each weight that has an owner."""

    class WholeMatrices(ZeroDistributedOptimizer):
        def _partition_parameters(self) -> dict[str, dict[int, tuple[int, int]]]:
            offsets: dict[str, dict[int, tuple[int, int]]] = super()._partition_parameters()
            return offsets | {name: {rank: (0, sizes[name])} for name, rank in owners.items()}

    return WholeMatrices


def _products(matrix: Matrix) -> int:
    """What its orthogonalisation costs, beside others."""
    return matrix.shape.numel() * min(matrix.shape)


def is_hidden(name: str, parameter: torch.Tensor) -> bool:
    """Whether nanotron's weight is a matrix between hidden units: no embedding, and no output layer."""
    *_, module, _ = (part for part in name.split(".") if part != "pp_block")
    return parameter.dim() == 2 and not module.endswith(("embedding", "lm_head"))


def matrices_of(parameters: Iterable[tuple[str, Any]], group: dist.ProcessGroup) -> dict[str, Matrix]:
    """The hidden matrices among a network's parameters, which the ranks of `group` may share, by name."""
    return {name: Matrix.of(parameter, group) for name, parameter in parameters if is_hidden(name, parameter)}
