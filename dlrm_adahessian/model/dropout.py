"""Dropout by masks that are drawn before a step, and are constants of it.

Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting", 2014, with the scale in training: an entry is left out with probability p, or divided by 1 - p.

An estimator of the curvature may run a head several times in a step, on all samples or the first ones, or replay it as a
CUDA graph. All these passes read the same masks from the same memory. So the curvature is that of the network which the
masks leave, and piecewise linear it stays. Outside a step there is no mask.

Each rank draws for the samples of all ranks and takes those of its own, as estimators do (curvature/base.py).
"""

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Multiplies what it gets by the mask of the step; without one it returns what it gets.

    Attributes:
        rate: p, share of the entries that are left out.
        width: entries of a sample.
        factors: (S, width), of the first S samples of the rank, 0 or 1 / (1 - p); None outside a step.
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
    """Draws the masks of a head's dropout, if it has any.

    Attributes:
        state: of the generator, (n,) uint8, for checkpoints; empty for a head without dropout.
    """

    def __init__(self, head: nn.Module, *, samples: int, seed: int) -> None:
        """Allocate and seed.

        Args:
            head: on its device, in its type.
            samples: that a rank has at most.
            seed: of the run.
        """
        self._layers = [module for module in head.modules() if isinstance(module, Dropout)]
        self.state: dict[str, Tensor] = {}
        if not self._layers:
            return
        like = next(head.parameters()).detach()
        self._factors = [like.new_zeros(samples, layer.width) for layer in self._layers]
        # Another stream than that of an estimator, which has the seed of the run itself: labels and masks are independent.
        (child,) = np.random.SeedSequence(seed).spawn(1)
        self._generator = torch.Generator(like.device).manual_seed(int(child.generate_state(1, np.uint64)[0]))
        self.state["generator"] = self._generator.get_state()

    def __bool__(self) -> bool:
        """Whether there is a mask to draw."""
        return bool(self._layers)

    @contextmanager
    def drawn(self, samples: int, own: slice) -> Generator[None]:
        """Draw the masks of a step, which hold within the block.

        Args:
            samples: of all ranks.
            own: which of these this rank has.
        """
        if self:
            self._draw(samples, own)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.factors = None

    def load_state(self) -> None:
        """Take up what was copied into `state`."""
        if self:
            self._generator.set_state(self.state["generator"])

    def _draw(self, samples: int, own: slice) -> None:
        for layer, factors in zip(self._layers, self._factors, strict=True):
            drawn = torch.rand(samples, layer.width, generator=self._generator, device=factors.device)
            kept = (drawn >= layer.rate)[own]
            factors[: len(kept)].copy_(kept).div_(1 - layer.rate)
            layer.factors = factors
        self.state["generator"].copy_(self._generator.get_state())
