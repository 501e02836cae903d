"""One forward pass of a model, and the curvature that its backward pass makes.

A linear layer u = W a + b has in the diagonal of the Gauss-Newton matrix

    diag_W = sum_b w_b (delta_b^2)^T a_b^2,   delta_b = dz_b/du_b,   w_b of losses.py.

Backward brings g_b delta_b to the layer's output, where g_b is the slope of the loss at the output z_b of sample b. So the
square of sqrt(w_b) / |g_b| times what it brings is w_b delta_b^2, whatever the loss is. It is multiplied before it is
squared: in float32 the square of a small slope would vanish.

In the basis of an optimizer (optim/basis.py) inputs and sqrt(w_b) delta_b are turned before they are squared. The Kronecker
factors are the sums of w_b delta_b delta_b^T, and of u_b a_b a_b^T with the sample's factor u_b in the loss.

A slope that is 0 to the bit brings nothing of delta. It leaves as `_NUDGE`, which no gradient shows.
"""

# pyright: basic
# Functions of autograd and their contexts have no types.
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrm_adahessian.library.attached import add_curvature_, add_factors_
from dlrm_adahessian.library.losses import SecondDerivative
from dlrm_adahessian.optim.basis import KroneckerBasis

_NUDGE = 1e-20
"""Its product with sqrt(w) dz/du is far from both ends of float32 for any w and slope of a network that trains."""


class Tally:
    """For how many samples the curvature of a step stands: n = sum_b u_b / sum_b u_b^2, which is B for a mean over B.

    With independent labels the expected square of the gradient is sum_b u_b^2 p (1 - p) (dz/dtheta)^2. This n makes it
    curvature / n, exactly where all u_b that are not 0 are equal.

    Attributes:
        moments: (2,) float64, the two sums; over ranks their means.
        samples: () float64, n.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self.moments = torch.zeros(2, dtype=torch.float64, device=device)
        self.samples = torch.ones((), dtype=torch.float64, device=device)
        self._ranks = ranks

    def add_(self, factors: Tensor) -> None:
        """Count samples of factors u (B,)."""
        wide = factors.double()
        self.moments += torch.stack([wide.sum(), wide.square().sum()])
        self.count_()

    def count_(self) -> None:
        """Bring `samples` up to date with `moments`."""
        total, squares = self.moments
        # A mean over N ranks gives each sample 1 / N of its factor.
        self.samples.copy_(torch.where(squares > 0, self._ranks * total / squares, 1))


class Pass:
    """A forward pass whose backward pass makes curvature."""

    def __init__(
        self,
        tally: Tally,
        begin: Callable[[], None],
        basis_of: Callable[[nn.Parameter], KroneckerBasis | None],
        *,
        fraction: float,
        compares: bool,
    ) -> None:
        """Wait for layers and outputs.

        Args:
            tally: of the step.
            begin: called when the backward pass reaches the outputs.
            basis_of: the basis in which the curvature of a parameter is wanted, None for coordinates.
            fraction: of the samples, the first ones, which then stand for all.
            compares: whether the slopes at the outputs are compared with those of the losses, which waits for the device.
        """
        self._tally, self._begin, self._basis_of, self._compares = tally, begin, basis_of, compares
        self._fraction = fraction
        self._second: SecondDerivative | None = None  # of all losses together
        self._of_losses: Tensor | None = None  # slopes at the outputs, (B,)
        self._roots: Tensor | None = None  # sqrt(w) / |g|, (C,), of the first C samples
        self._factors: Tensor | None = None  # u, (C,)
        self.output: Tensor | None = None

    def at_layer(self, layer: nn.Linear, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output (B, out) of a layer on `inputs` (B, in), to be used in its place."""
        return _AtLayer.apply(output, inputs, layer, self)  # pyright: ignore[reportReturnType]

    def at_output(self, output: Tensor) -> Tensor:
        """Return the output (B,) or (B, 1) of the model, to be used in its place."""
        seen = output.view_as(output)
        self.output = seen.detach()
        seen.register_hook(self._arrive)
        return seen

    def through_loss(self, output: Tensor) -> Tensor:
        """Return `output`, to be given to a loss in its place, whose slopes there are then known."""
        given = output.view_as(output)
        if self._compares:
            given.register_hook(self._add_slopes)
        return given

    def _add_slopes(self, slopes: Tensor) -> None:
        flat = slopes.detach().reshape(-1)
        self._of_losses = flat if self._of_losses is None else self._of_losses + flat

    def add_loss(self, second: SecondDerivative, factor: Tensor) -> None:
        """Take up a loss that the backward pass came through; `factor` () or (B,) is its slope in what backward is of."""
        part = second.scaled(factor.reshape(-1))
        self._second = part if self._second is None else self._second + part
        self._tally.add_(part.factors)

    def _arrive(self, slopes: Tensor) -> Tensor:
        """Find the roots from the slopes at the outputs, and return the slopes to go on with."""
        self._begin()
        second, self._second = self._second, None
        if second is None:
            raise RuntimeError(
                "exact_curvature saw no loss of the model's outputs before backward; within its block call "
                "binary_cross_entropy_with_logits or mse_loss of torch.nn.functional, or their modules, on the outputs as "
                "the model returns them, squeezed at most; casts and factors belong into the model"
            )
        if self._compares:
            self._refuse_other_terms(slopes)
        curvature = second.curvature
        flat = slopes.reshape(-1).to(curvature.dtype)
        flat = torch.where((flat == 0) & (curvature != 0), _NUDGE, flat)
        roots = torch.where(flat == 0, 0, curvature.sqrt() / flat.abs())
        first = slice(math.ceil(self._fraction * len(roots)))
        counted = second.factors[first]
        scale = torch.where(counted.sum() > 0, second.factors.sum() / counted.sum(), 0)
        self._roots, self._factors = roots[first] * scale.sqrt(), counted * scale
        return flat.view_as(slopes).to(slopes.dtype)

    def _refuse_other_terms(self, slopes: Tensor) -> None:
        of_losses, self._of_losses = self._of_losses, None
        rounding = 8 * torch.finfo(slopes.dtype).eps * slopes.abs().max()
        if of_losses is None or not ((slopes.reshape(-1) - of_losses).abs() <= rounding).all():
            raise RuntimeError(
                "exact_curvature knows the curvature of binary_cross_entropy_with_logits and mse_loss, and what backward "
                "was called on depends on the model's outputs in other ways too; leave those terms out, or use "
                "hutchinson_curvature"
            )

    def learn_(self, layer: nn.Linear, inputs: Tensor, slopes: Tensor) -> None:
        """Add the curvature of one layer, from its inputs (B, in) and the slopes (B, out) at its outputs."""
        roots: Any = self._roots
        delta = slopes[: len(roots)] * roots.unsqueeze(1)  # in the type of the roots, float32 at least
        given, squares = inputs[: len(roots)].to(delta.dtype), delta.square()
        weight, bias = cast(nn.Parameter, layer.weight), cast(nn.Parameter | None, layer.bias)
        if weight.requires_grad:
            basis = self._basis_of(weight)
            if basis is None:
                self._add_(weight, squares.T @ given.square())
            else:
                self._learn_in_basis_(weight, basis, given, delta)
        if bias is not None and bias.requires_grad:
            self._add_(bias, squares.sum(0))

    def _learn_in_basis_(
        self, weight: nn.Parameter, basis: KroneckerBasis, inputs: Tensor, delta: Tensor
    ) -> None:
        """Add the curvature of a weight in its basis, and the Kronecker factors; `delta` (C, out) is sqrt(w) dz/du."""
        vector, factors = torch.empty_like(basis.state["factors"]), cast(Tensor, self._factors)
        (matrix,), ((output_factor, input_factor),) = basis.matrices.values(), basis.views(vector).values()
        # What is rounded before it is turned swamps the small entries.
        with torch.autocast(delta.device.type, enabled=False):
            if output_factor is not None:
                output_factor.copy_(delta.T @ delta)
            if input_factor is not None:
                input_factor.copy_(inputs.T @ (inputs * factors.unsqueeze(1)))
            add_factors_(weight, vector, basis)
            inputs, delta = inputs.to(vector.dtype), delta.to(vector.dtype)
            self._add_(weight, matrix.turn_outputs(delta).square().T @ matrix.turn_inputs(inputs).square())

    def _add_(self, parameter: nn.Parameter, diagonal: Tensor) -> None:
        add_curvature_(parameter, diagonal.to(parameter.dtype), self._tally.samples)


class _AtLayer(torch.autograd.Function):
    """The output of a layer as it is, and on the way back its curvature; autograd frees the inputs as it does its own."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, layer: nn.Linear, of: Pass) -> Tensor:
        ctx.save_for_backward(inputs.detach())
        ctx.layer, ctx.of = layer, of
        return output.view_as(output)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (inputs,) = ctx.saved_tensors
        ctx.of.learn_(ctx.layer, inputs, slopes)
        return slopes, None, None, None
