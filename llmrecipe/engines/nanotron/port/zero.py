"""ZeRO's gradients in float32, each added up for the one replica that needs it, while the backward pass goes on.

nanotron adds up all of them for every replica, when the backward pass has ended: twice as much to send, and nothing to
compute meanwhile. Here the replicas share the optimizer's state in another way, such that what is added up at once lies
in one piece and is scattered in equal parts.
"""

import functools
import itertools
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Literal

import attrs
import torch
from nanotron import distributed as dist
from nanotron.optim.gradient_accumulator import FP32GradientAccumulator
from nanotron.optim.zero import ZeroDistributedOptimizer

Ranges = dict[int, tuple[int, int]]
"""By rank, the first of a weight's numbers that it updates, and the one after the last."""

Way = Literal["scatter", "reduce", "all"]


@attrs.frozen
class Exchange:
    """Gradients that are added up at once."""

    start: int
    """The first of them among all gradients of this process, one after the other."""

    end: int
    """After the last of them."""

    weights: tuple[str, ...]
    """What they are the gradients of."""

    way: Way
    """Each rank gets an equal part; `owner` gets all; every rank gets all, and updates a part."""

    owner: int = 0

    def updated(self, ranks: int) -> dict[int, tuple[int, int]]:
        """By rank, the first and after the last of the gradients whose weights it updates."""
        if self.way == "reduce":
            return {self.owner: (self.start, self.end)}
        cuts = [self.start + (self.end - self.start) * rank // ranks for rank in range(ranks + 1)]
        return dict(enumerate(itertools.pairwise(cuts)))


@attrs.frozen(kw_only=True)
class Plan:
    """How the gradients of a process, in the order of its weights, are added up over its replicas."""

    sizes: Mapping[str, int]
    """Numbers of each weight."""

    owners: Mapping[str, int]
    """Weights that are updated as a whole, and the ranks that do."""

    shared: Collection[str]
    """Weights that processes with others hold, too, and whose gradients these add up next: every rank has them all."""

    ranks: int
    """Replicas."""

    at_least: int
    """Gradients that are worth a message."""

    @functools.cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """What is added up at once, in the order of the weights."""
        found: list[Exchange] = []
        run: list[str] = []
        start = end = 0

        def close() -> None:
            nonlocal start
            even = start + (end - start) // self.ranks * self.ranks
            if start < even:
                found.append(Exchange(start, even, tuple(run), "scatter"))
            if even < end:
                # Fewer than there are ranks.
                found.append(Exchange(even, end, tuple(run), "reduce", self.ranks - 1))
            run.clear()
            start = end

        for name, size in self.sizes.items():
            if name in self.owners or name in self.shared:
                close()
                start, end = end, end + size
                way: Way = "reduce" if name in self.owners else "all"
                found.append(Exchange(start, end, (name,), way, self.owners.get(name, 0)))
                start = end
                continue
            run.append(name)
            end += size
            if end - start >= self.at_least:
                close()
        close()
        return tuple(found)

    @functools.cached_property
    def ranges(self) -> dict[str, Ranges]:
        """Which rank updates which numbers of each weight: one piece for each rank, in their order."""
        first = dict(zip(self.sizes, itertools.accumulate(self.sizes.values(), initial=0), strict=False))
        found: dict[str, Ranges] = {name: {} for name in self.sizes}
        for exchange in self.exchanges:
            for rank, (start, end) in exchange.updated(self.ranks).items():
                for name in exchange.weights:
                    begin, stop = max(start - first[name], 0), min(end - first[name], self.sizes[name])
                    if begin < stop:
                        found[name][rank] = (found[name].get(rank, (begin, stop))[0], stop)
        return found


def optimizer(plan: Plan) -> type[ZeroDistributedOptimizer]:
    """nanotron's ZeRO, but that each rank updates what it has by `plan`."""

    class Planned(ZeroDistributedOptimizer):
        def _partition_parameters(self) -> dict[str, Ranges]:
            super()._partition_parameters()
            return plan.ranges

    return Planned


class Exchanging(FP32GradientAccumulator):
    """nanotron's gradients in float32, exchanged in the last backward pass of a step; see `accumulator`."""

    plan: Plan
    group: dist.ProcessGroup
    backwards: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._done = 0
        self._left: deque[Exchange] = deque()
        self._missing: set[str] = set()
        self._works: list[Any] = []
        for name, entry in self.fp32_grad_buffers.items():
            entry["half"].register_post_accumulate_grad_hook(functools.partial(self._add, name))

    def own(self) -> dict[str, torch.Tensor]:
        """The gradients of what this rank updates, by weight: all that it has after a step's exchange."""
        return {
            name: self.get_grad_buffer(name).view(-1)[slice(*part)] for name, part in self.param_name_to_offsets.items()
        }

    def backward(self, loss: torch.Tensor) -> Any:
        """The gradients of one micro-batch, added to those of the others."""
        self._done += 1
        # Tells nanotron, too, that the gradients are added by somebody else.
        self._is_accumulation_sync_step = self._done == self.backwards
        # From the last to the first, as they come; in the same order on every rank, whatever comes first.
        self._left = deque(reversed(self.plan.exchanges))
        self._missing = set(self.plan.sizes)
        return super().backward(loss)

    def _add(self, name: str, weight: torch.Tensor) -> None:
        if not self._is_accumulation_sync_step:
            return
        self.get_grad_buffer(name).add_(weight.grad)
        self._missing.discard(name)
        while self._left and self._missing.isdisjoint(self._left[0].weights):
            self._works.append(self._start(self._left.popleft()))

    def _start(self, exchange: Exchange) -> Any:
        # Sums, to be divided when they are there: gloo takes a mean for a sum in some of these.
        how: dict[str, Any] = {"group": self.group, "async_op": True}
        gradients = self._contiguous_fp32_grad_buffer[exchange.start : exchange.end]
        if exchange.way == "scatter":
            own = gradients.chunk(self.plan.ranks)[dist.get_rank(self.group)]
            return dist.reduce_scatter_tensor(own, gradients, **how)
        if exchange.way == "reduce":
            return dist.reduce(gradients, group_dst=exchange.owner, **how)
        return dist.all_reduce(gradients, **how)

    def sync_gradients_across_dp(self, dp_pg: dist.ProcessGroup, reduce_op: Any, reduce_scatter: bool) -> None:
        """Wait until this rank has the means of all that it needs.

        Raises:
            RuntimeError: there were more backward passes than were told, or fewer, or weights without a gradient.
        """
        if self._done != self.backwards or self._left:
            raise RuntimeError(f"after {self._done} of {self.backwards} backward passes no gradient of {self._missing}")
        for work in self._works:
            work.wait()
        self._works.clear()
        self._done = 0
        for part in self._means:
            part.div_(self.plan.ranks)

    @functools.cached_property
    def _means(self) -> list[torch.Tensor]:
        """What this rank gets of each exchange."""
        rank, found = dist.get_rank(self.group), []
        for exchange in self.plan.exchanges:
            if exchange.way == "all":
                found.append((exchange.start, exchange.end))
            else:
                found += [part for owner, part in exchange.updated(self.plan.ranks).items() if owner == rank]
        return [self._contiguous_fp32_grad_buffer[start:end] for start, end in found]


def accumulator(plan: Plan, group: dist.ProcessGroup, backwards: int) -> type[Exchanging]:
    """Adds up gradients over `group` by `plan`, in the last of the `backwards` passes of each step."""
    return type("Planned", (Exchanging,), {"plan": plan, "group": group, "backwards": backwards})
