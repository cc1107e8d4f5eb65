"""How a run is spread over ranks."""

from typing import Literal

import attrs

from llmrecipe.recipe.schema import Word, define
from llmrecipe.recipe.validators import between


@define("parallelism")
class Parallelism(Word):
    """Data, tensor and pipeline parallelism. Changes rounding, never the meaning of a run."""

    data: int = attrs.field(default=1, validator=between(1, 100_000))
    """Replicas of the model, each reading its own part of a batch."""

    tensor: int = attrs.field(default=1, validator=between(1, 100_000))
    """Ranks that share every matrix of a replica (Shoeybi et al. 2019)."""

    pipeline: int = attrs.field(default=1, validator=between(1, 10_000))
    """Ranks that share the layers of a replica."""

    micro_batch_size: int = attrs.field(default=1, validator=between(1, 1_000_000))
    """Sequences that one replica reads at once; smaller needs less memory, larger is faster."""

    zero_stage: Literal[0, 1, 3] = 0
    """What the data-parallel ranks share (Rajbhandari et al. 2020): 1 spreads the optimizer's state over them, in a
    training; 3 the weights and their gradients as well, and those of the teacher, in a distillation. A rank has whole
    weights of one layer at a time then, which the ranks send each other for every micro-batch."""

    tensor_parallel_mode: Literal["all_reduce", "reduce_scatter"] = "all_reduce"
    """`reduce_scatter` also spreads the activations: sequence parallelism (Korthikanti et al. 2022)."""

    pipeline_schedule: Literal["1f1b", "afab"] = "1f1b"
    """One-forward-one-backward holds fewer activations than all-forward-all-backward (Narayanan et al. 2021)."""

    recompute_activations: bool = False
    """Keep only the input of each layer, and compute the layer again in the backward pass (Chen et al. 2016)."""

    bucket_size_mb: int = attrs.field(default=25, validator=between(1, 100_000))
    """Megabytes of gradients that data-parallel ranks add up at once, during the backward pass (Li et al.
    2020). Smaller buckets start earlier, larger ones need fewer messages."""

    async_tensor_parallel: bool = False
    """Let tensor-parallel ranks compute what they can while they exchange the rest; on a CPU without oneDNN."""

    threads_per_rank: int = attrs.field(default=1, validator=between(1, 10_000))
    """CPU threads of each rank; ranks × threads should not exceed the cores."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.data * self.tensor * self.pipeline

    @property
    def shares_weights(self) -> bool:
        """Whether no rank has all weights of its replica, though it computes with all of them."""
        return self.zero_stage == 3 and self.data > 1

    @property
    def sequence_step(self) -> int:
        """What the length of a sequence is a multiple of."""
        return self.tensor if self.tensor_parallel_mode == "reduce_scatter" else 1

    def accumulation(self, global_batch_size: int) -> int:
        """Micro-batches that each replica adds up for one optimizer step."""
        return global_batch_size // (self.data * self.micro_batch_size)
