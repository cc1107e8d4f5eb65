"""Where the time of a step goes: kernels by what they do."""

import re
from collections.abc import Iterable, Mapping

CLASSES = {
    # The order matters: what follows is of the first class that knows it.
    "attention": r"flash|fmha|sdpa|attention",
    "communication": r"nccl|gloo|c10d",
    "optimizer and gradients": r"adam|multi_tensor|foreach|orthogonal",
    "products": r"gemm|gemv|cutlass|cublas|nvjet|xmma|splitk|addmm|matmul|linear|::b?mm\b",
    "norms": r"rms_?norm|layer_?norm|gammabeta",
    # Names of Triton's kernels list all that is in one.
    "copies": r"^(?!triton).*(memcpy|memset|copy|::cat\b|catarray|::to\b|contiguous|clone)",
    "lookups": r"index|embedding|gather|scatter|sort",
    "sums": r"reduce|softmax|logsumexp|triton_(red|per)|::sum\b|::mean\b|::amax\b",
    "element by element": r"elementwise|triton_poi|silu|::(add|sub|mul|div|neg|exp|sigmoid|fill|zero)_?\b",
}
"""Parts of the names of CUDA's kernels, and of torch's operators, which take their place on a CPU."""

OTHER = "other"
IDLE = "none"
"""Between kernels, when the GPU waits."""


def class_of(kernel: str) -> str:
    """The class of a kernel by its name."""
    return next((name for name, sign in CLASSES.items() if re.search(sign, kernel, re.IGNORECASE)), OTHER)


def by_class(kernels: Iterable[tuple[str, float]], whole: float) -> Mapping[str, float]:
    """Seconds in each class, of kernels with theirs; what is left of `whole` is that of no kernel."""
    found = dict.fromkeys([*CLASSES, OTHER], 0.0)
    for name, seconds in kernels:
        found[class_of(name)] += seconds
    return found | {IDLE: max(0.0, whole - sum(found.values()))}
