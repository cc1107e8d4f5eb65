"""What a rank finds in its environment: what torch, CUDA and the C library read once, as it starts."""

import os

from llmrecipe import layout
from llmrecipe.engines.nanotron.job import Job


def environment_of(job: Job) -> dict[str, str]:
    """The variables to add; one that the user has set is left as it is."""
    # Tensors of many megabytes in large pages: the processor looks up one address instead of 512.
    found = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    if job.machine.device == "cuda":
        # One range that grows, in the place of blocks of fixed sizes whose rests nothing fits into.
        found["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        if job.machine.deterministic:
            # Else cuBLAS may add up a product's parts in any order.
            found["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    added = {name: value for name, value in found.items() if name not in os.environ}
    if job.compiled:
        # torch sets them itself in this process: outside of the project, and to a pool of processes, which would
        # outlive a rank that is killed.
        added |= {"TORCHINDUCTOR_CACHE_DIR": str(layout.COMPILED.absolute()), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return added
