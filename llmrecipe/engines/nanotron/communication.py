"""How long the computation of a rank waits for other ranks, by what they exchange.

`data`: gradients, and weights under ZeRO, among data-parallel ranks. `tensor`: activations and their gradients among
tensor-parallel ranks. `pipeline`: activations and their gradients between neighbours in the pipeline; this includes
the bubble, the time in which a rank has nothing to do yet. `other`: what goes beyond these, such as the gradient's
norm and tied weights over the ranks of a model, and the agreement of all ranks that a step is sound.

A kind is told by its group of ranks, so where a model's ranks are its tensor-parallel ranks, the gradient's norm
counts as `tensor`. What is on its way while the rank computes counts for the rest that the rank then waits for.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from nanotron import distributed as dist
from nanotron.parallel import ParallelContext
from nanotron.parallel.pipeline_parallel.engine import PipelineEngine
from nanotron.parallel.pipeline_parallel.p2p import P2P
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from llmrecipe.engines.nanotron.clock import Clock

_COLLECTIVES = (
    "all_reduce",
    "all_reduce_coalesced",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "reduce",
    "reduce_scatter_tensor",
    "reduce_scatter_coalesced",
    "broadcast",
)
"""What a training step calls, looked up in `nanotron.distributed` at every call."""


Span = tuple[str, Any, Any]
"""A kind of waiting, and the moments of its beginning and its end."""


class Communication:
    """What this rank waits for in its training steps."""

    def __init__(self, context: ParallelContext, clock: Clock) -> None:
        self._kinds = {context.dp_pg: "data", context.tp_pg: "tensor"}
        self._clock = clock
        self._spans: list[Span] = []
        self._counts = False
        self._last_bucket: Any = None
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._step_seconds = 0.0

    def attach(self, model: torch.nn.Module, *, has_hook: bool) -> None:
        """Time what a training step of this process calls.

        Args:
            model: the network, perhaps within torch's `DistributedDataParallel`.
            has_hook: whether that has a hook already, which adds up gradients by calls that are timed.
        """
        for name in _COLLECTIVES:
            setattr(dist, name, self.collective(getattr(dist, name)))
        P2P.send_tensors = self._pipeline(P2P.send_tensors)
        P2P.recv_tensors = self._pipeline(P2P.recv_tensors)
        if isinstance(model, DistributedDataParallel) and not has_hook:
            # torch's own sum and mean, which it would do out of sight.
            model.register_comm_hook(model.process_group, self._add_up)
            PipelineEngine.backward = self._backward(PipelineEngine.backward)

    def start(self) -> None:
        """A step starts; until `stop`, waiting counts."""
        self._counts = True

    def stop(self) -> list[Span]:
        """All work of the step is given to the device: what of it waits."""
        self._counts = False
        spans, self._spans = self._spans, []
        return spans

    def count(self, spans: list[Span], seconds: float) -> dict[str, float]:
        """A step with these spans is done and took `seconds`: how many of them waited for each kind."""
        waited: defaultdict[str, float] = defaultdict(float)
        for kind, start, end in spans:
            waited[kind] += self._clock.seconds(start, end)
        for kind, waiting in waited.items():
            self._seconds[kind] += waiting
        self._step_seconds += seconds
        return dict(waited)

    def percent(self) -> dict[str, float]:
        """Share of this rank's finished steps that waited, by kind, in percent."""
        return {kind: 100 * seconds / self._step_seconds for kind, seconds in self._seconds.items()}

    def wait(self, kind: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `function`, whose time counts as waiting for `kind`; calls within it don't count again."""
        if not self._counts:
            return function(*args, **kwargs)
        self._counts = False
        start = self._clock.now()
        try:
            return function(*args, **kwargs)
        finally:
            self._spans.append((kind, start, self._clock.now()))
            self._counts = True

    def collective(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, a collective that is given its `group` by name, timed unless the group is of one rank."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group")
            if group is not None and group.size() == 1:
                return function(*args, **kwargs)
            kind = self._kinds.get(group, "other")
            if kwargs.get("async_op"):
                return _Handle(function(*args, **kwargs), kind, self)
            return self.wait(kind, function, *args, **kwargs)

        return timed

    def _pipeline(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(between: P2P, *args: Any, **kwargs: Any) -> Any:
            # It is called without neighbours, too, and a rank that is kept from its core meanwhile waits for nobody.
            if between.pg.size() == 1:
                return function(between, *args, **kwargs)
            return self.wait("pipeline", function, between, *args, **kwargs)

        return timed

    def _add_up(self, group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        future = allreduce_hook(group, bucket)
        if bucket.is_last():
            self._last_bucket = self._clock.now()
        return future

    def _backward(self, function: Callable[..., None]) -> Callable[..., None]:
        """A backward pass, which has nothing to compute from its last bucket of gradients on."""

        def timed(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            if self._last_bucket is not None:
                self._spans.append(("data", self._last_bucket, self._clock.now()))
                self._last_bucket = None

        return timed


class _Handle:
    """A collective on its way: the work or future that torch returned, whose `wait` is timed."""

    def __init__(self, work: Any, kind: str, communication: Communication) -> None:
        self._work = work
        self._kind = kind
        self._communication = communication

    def wait(self, *args: Any) -> Any:
        return self._communication.wait(self._kind, self._work.wait, *args)


def summary(percent: dict[str, float], peak_memory_mb: int, group: dist.ProcessGroup) -> dict[str, Any]:
    """What every rank of `group` measured: the mean share of each kind of waiting, and the peak memory by rank.

    Shares are in percent, to a tenth; what rounds to nothing is left out.
    """
    ranks: list[Any] = [None] * group.size()
    dist.all_gather_object(ranks, (percent, peak_memory_mb), group=group)
    total: defaultdict[str, float] = defaultdict(float)
    for shares, _ in ranks:
        for kind, share in shares.items():
            total[kind] += share
    means = {kind: round(share / len(ranks), 1) for kind, share in sorted(total.items())}
    return {
        "communication_percent": {kind: mean for kind, mean in means.items() if mean > 0},
        "peak_memory_mb": [peak for _, peak in ranks],
    }
