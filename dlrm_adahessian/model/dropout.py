"""Apply dropout with masks that are drawn before each step and stay constant during it.

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting", 2014. Scaling happens in training: an entry is dropped with probability p, and otherwise divided by 1 - p.

A curvature estimator may run a head several times in a step, on all samples or only the first ones, or replay it as a
CUDA graph. All these passes read the same masks from the same memory. The curvature is therefore that of the masked
network, which remains piecewise linear. Outside a step there is no mask.

Each rank draws the masks of all ranks' samples and uses those of its own, as estimators do (curvature/base.py).
"""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Multiply the input by the mask of the step, or return it unchanged without a mask.

    Attributes:
        rate: p, the probability that an entry is dropped.
        width: number of entries per sample.
        factors: (S, width), mask of the rank's first S samples, 0 or 1 / (1 - p); None outside a step.
    """

    factors: Tensor | None

    def __init__(self, rate: float, width: int) -> None:
        super().__init__()
        self.rate, self.width = rate, width
        self.register_buffer("factors", None, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, width) to (B, width), B at most S."""
        return values if self.factors is None else values * self.factors[: len(values)]


class Masks:
    """Draw the dropout masks of a head, if it has dropout.

    Attributes:
        state: (n,) uint8, generator state for checkpoints; empty for a head without dropout.
    """

    def __init__(self, head: nn.Module, *, samples: int, seed: int) -> None:
        """Allocate the masks and seed the generator.

        Args:
            head: head with its final device and dtype.
            samples: maximum number of samples per rank.
            seed: seed of the run.
        """
        self._layers = [module for module in head.modules() if isinstance(module, Dropout)]
        self.state: dict[str, Tensor] = {}
        if not self._layers:
            return
        like = next(head.parameters()).detach()
        self._factors = [like.new_zeros(samples, layer.width) for layer in self._layers]
        # Estimators use the seed of the run itself. A spawned seed keeps the masks independent of their random labels.
        (child,) = np.random.SeedSequence(seed).spawn(1)
        self._generator = torch.Generator(like.device).manual_seed(int(child.generate_state(1, np.uint64)[0]))
        self.state["generator"] = self._generator.get_state()

    def __bool__(self) -> bool:
        """Return whether the head has dropout."""
        return bool(self._layers)

    @contextmanager
    def drawn(self, samples: int, own: slice) -> Generator[None]:
        """Draw the masks of a step, which apply within the block.

        Args:
            samples: number of samples of all ranks.
            own: slice of this rank's samples.
        """
        if self:
            self._draw(samples, own)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.factors = None

    def load_state(self) -> None:
        """Set the generator to the state that was copied into `state`."""
        if self:
            self._generator.set_state(self.state["generator"])

    def _draw(self, samples: int, own: slice) -> None:
        for layer, factors in zip(self._layers, self._factors, strict=True):
            drawn = torch.rand(samples, layer.width, generator=self._generator, device=factors.device)
            kept = (drawn >= layer.rate)[own]
            factors[: len(kept)].copy_(kept).div_(1 - layer.rate)
            layer.factors = factors
        self.state["generator"].copy_(self._generator.get_state())
