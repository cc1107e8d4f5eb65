"""The processor's best matrix product of a network's shapes, by either of torch's libraries.

usage: python peak.py ROWS SHAPES_JSON THREADS
`SHAPES_JSON` lists `[in, out]` of the network's linear layers. Prints GFLOP/s of float32.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

_TIMES = 9


def main() -> None:
    """Multiply as forward and backward passes do, and print the best."""
    rows, shapes, threads = int(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    best = 0.0
    for inner, outer in shapes:
        x, weight, gradient = torch.randn(rows, inner), torch.randn(outer, inner), torch.randn(rows, outer)
        products = (
            lambda x=x, weight=weight: x @ weight.t(),
            lambda gradient=gradient, weight=weight: gradient @ weight,
            lambda x=x, gradient=gradient: gradient.t() @ x,
            lambda x=x, weight=weight: _by_onednn(x, weight),
            lambda gradient=gradient, weight=weight: _by_onednn(gradient, weight.t()),
            lambda x=x, gradient=gradient: _by_onednn(gradient.t(), x.t()),
        )
        best = max(best, *(2 * rows * inner * outer / _seconds(product) for product in products))
    print(json.dumps(best / 1e9))


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _seconds(product: Callable[[], torch.Tensor]) -> float:
    product()
    seconds = []
    for _ in range(_TIMES):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[_TIMES // 2]


if __name__ == "__main__":
    main()
