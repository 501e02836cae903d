# pyright: basic
"""An estimator replayed as a CUDA graph: one launch in place of some hundred.

At usual batch sizes a GPU finishes the small kernels of a DLRM head faster than Python can launch them. A graph is
captured for each shape of a batch, the second time that it comes; the first call runs as it is, and warms up what
capture needs. Only for estimators that draw nothing at random.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Derivatives, Estimator, Place, sums_of

_Key = tuple[torch.Size, int]


class _Graph:
    """One captured call: fixed inputs, fixed outputs."""

    def __init__(
        self,
        estimator: Estimator,
        head: nn.Module,
        inputs: tuple[Tensor, Tensor, Tensor],
        samples: int,
        pool: Any,
    ) -> None:
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up for a stream; not while it is captured
            estimator(head, *self._inputs, curvature_samples=samples)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Only what this thread does is captured, and can spoil it: the loader's thread allocates pinned memory meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            found = estimator(head, *self._inputs, curvature_samples=samples)
            self._found = replace(found, sums=sums_of(found))

    def __call__(self, *inputs: Tensor) -> Derivatives:
        for fixed, tensor in zip(self._inputs, inputs, strict=True):
            fixed.copy_(tensor)
        self._graph.replay()
        return self._found


class Graphed:
    """Wraps an estimator on a GPU; derivatives are good until the next call."""

    def __init__(self, estimator: Estimator) -> None:
        """Wrap.

        Args:
            estimator: deterministic, always called with the same head.
        """
        self._estimator = estimator
        self.state = estimator.state
        # One pool of memory for all graphs: they run one after another, and only outputs outlive a run.
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: set[_Key] = set()
        self._graphs: dict[_Key, _Graph] = {}

    def load_state(self) -> None:
        """Take up what was copied into `state`."""
        self._estimator.load_state()

    def __call__(
        self,
        head: nn.Module,
        dense: Tensor,
        pooled: Tensor,
        labels: Tensor,
        *,
        curvature_samples: int,
        place: Place | None = None,
    ) -> Derivatives:
        """Return the derivatives; see `Estimator`."""
        del place  # nothing is drawn at random
        inputs = (dense, pooled.detach(), labels)
        key = (pooled.shape, curvature_samples)
        if key not in self._seen:
            self._seen.add(key)
            return self._estimator(head, *inputs, curvature_samples=curvature_samples)
        if key not in self._graphs:
            self._graphs[key] = _Graph(self._estimator, head, inputs, curvature_samples, self._pool)
        return self._graphs[key](*inputs)
