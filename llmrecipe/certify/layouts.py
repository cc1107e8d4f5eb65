"""Layouts of a shrunk run: one of another kind, and each in words."""

from llmrecipe.recipe.evolve import evolve
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.parallelism import Parallelism


def other_layout(parallelism: Parallelism, network: Network) -> Parallelism:
    """A layout that differs in kind from `parallelism`, and that a shrunk `network` can be trained under.

    A model that is spread over ranks becomes two whole replicas, with the optimizer's state spread if it wasn't, and
    whole replicas become one that is spread. One rank becomes two that share every matrix, or else the batch.
    """
    micro_batch_size = 3 - parallelism.micro_batch_size
    if parallelism.tensor > 1 or parallelism.pipeline > 1:
        # A new one, since choices for the ranks of one replica have no meaning for whole ones.
        return Parallelism(data=2, zero_stage=0 if parallelism.zero_stage else 1, micro_batch_size=micro_batch_size)
    can_be_shared = all(size % 2 == 0 for size in network.shared_by_tensor_ranks.values())
    if parallelism.data > 1:
        degrees = {"data": 1, "tensor": 2 if can_be_shared else 1, "pipeline": 2}
    else:
        degrees = {"tensor": 2} if can_be_shared else {"data": 2}
    return evolve(parallelism, **degrees, micro_batch_size=micro_batch_size)


def in_words(parallelism: Parallelism) -> str:
    """`data 2 × tensor 2, ZeRO 1`, or `one rank`."""
    degrees = [(name, getattr(parallelism, name)) for name in ("data", "tensor", "pipeline")]
    text = " × ".join(f"{name} {degree}" for name, degree in degrees if degree > 1) or "one rank"
    return f"{text}, ZeRO 1" if parallelism.zero_stage == 1 and parallelism.data > 1 else text
