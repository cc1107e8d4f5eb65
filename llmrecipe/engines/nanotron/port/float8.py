"""Linear layers that multiply in float8 by torchao, whose own layers know nothing of nanotron's tensor parallelism.

Inputs and weights are rounded to e4m3 and gradients to e5m2 (Micikevicius et al. 2022), each as a whole by a scale of
its own that is found anew every time; sums stay wider. On a CPU, which has no such numbers, torchao rounds as much and
multiplies in float32.

Scales are powers of two: then it is the same digits that are lost of a number, whatever else is in the tensor, unless
the number is some ten thousand times smaller than the largest. So layouts, which cut the tensors in different ways,
agree to rounding, and need not tell each other their largest numbers.
"""

import torch
from nanotron.parallel.tensor_parallel.distributed_differentiable_primitives import (
    differentiable_all_gather,
    differentiable_all_reduce_sum,
    differentiable_identity,
    differentiable_reduce_scatter_sum,
)
from nanotron.parallel.tensor_parallel.enum import TensorParallelLinearMode
from nanotron.parallel.tensor_parallel.nn import TensorParallelColumnLinear, TensorParallelRowLinear
from torchao.float8 import Float8LinearConfig, LinearMMConfig, ScaledMMConfig
from torchao.float8.float8_linear import matmul_with_hp_or_float8_args

Settings = tuple[LinearMMConfig, Float8LinearConfig]


def _settings(*, emulate: bool) -> Settings:
    config = Float8LinearConfig(emulate=emulate, round_scales_to_power_of_2=True)
    products = (config.gemm_config_output, config.gemm_config_grad_input, config.gemm_config_grad_weight)
    return LinearMMConfig(*(ScaledMMConfig(emulate, product.use_fast_accum) for product in products)), config


_BY_HARDWARE, _EMULATED = _settings(emulate=False), _settings(emulate=True)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x Wᵀ + b` of `x` `[…, in]` and `weight` `[out, in]`; this product and its two gradients are computed in float8.

    On a GPU `in`, `out` and, for the gradient of the weight, the number of rows must be multiples of 16.
    """
    settings = _EMULATED if x.device.type == "cpu" else _BY_HARDWARE
    product: torch.Tensor = matmul_with_hp_or_float8_args.apply(x, weight.t(), *settings)
    return product if bias is None else product + bias


def use_in(network: torch.nn.Module, *, but_for: tuple[str, ...]) -> None:
    """Let the linear layers of `network` multiply in float8, all but those whose names begin with one of `but_for`."""
    for name, module in network.named_modules():
        if name.startswith(but_for):
            continue
        # Their weights, and what nanotron knows of these, stay as they are.
        if isinstance(module, TensorParallelColumnLinear):
            module.__class__ = ColumnLinear
        elif isinstance(module, TensorParallelRowLinear):
            module.__class__ = RowLinear


class ColumnLinear(TensorParallelColumnLinear):
    """nanotron's layer whose rows the ranks share, with products in float8."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[length, …, in]`, or a rank's part of the length, to `[length, …, out / ranks]`."""
        is_scattered = self.mode is TensorParallelLinearMode.REDUCE_SCATTER
        gather = differentiable_all_gather if is_scattered else differentiable_identity
        return linear(gather(x, group=self.pg), self.weight, self.bias)


class RowLinear(TensorParallelRowLinear):
    """nanotron's layer whose columns the ranks share, with products in float8."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[length, …, in / ranks]` to `[length, …, out]`, or a rank's part of the length."""
        is_scattered = self.mode is TensorParallelLinearMode.REDUCE_SCATTER
        add_up = differentiable_reduce_scatter_sum if is_scattered else differentiable_all_reduce_sum
        return add_up(linear(x, self.weight, self.bias), group=self.pg)
