"""Parameters for a `torch.optim` optimizer that are views into our flat vector."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class ParameterViews:
    """Some of the parameters that lie one after another in a vector, each in its own shape."""

    def __init__(self, vector: Tensor, shapes: Sequence[Sequence[int]], picked: Sequence[int]) -> None:
        """View into `vector`.

        Args:
            vector: (P,).
            shapes: of all parameters in order, P entries in all.
            picked: positions in `shapes`.
        """
        self._sizes = [math.prod(shape) for shape in shapes]
        self._shapes, self._picked = shapes, picked
        self.parameters = [nn.Parameter(view) for view in self.of(vector)]

    def of(self, vector: Tensor) -> list[Tensor]:
        """Return the views into a vector (P,)."""
        parts = vector.split(self._sizes)
        return [parts[i].view(*self._shapes[i]) for i in self._picked]

    def point_(self, vector: Tensor, grad: Tensor) -> None:
        """Let the parameters be views into `vector`, and their gradients into `grad`, both (P,)."""
        for parameter, view, slope in zip(self.parameters, self.of(vector), self.of(grad), strict=True):
            parameter.data, parameter.grad = view, slope
