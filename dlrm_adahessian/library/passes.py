"""One forward pass of a model, and the curvature that its backward pass computes.

For a linear layer u = W a + b, the diagonal of the Gauss-Newton matrix is

    diag_W = sum_b w_b (delta_b^2)^T a_b^2,   delta_b = dz_b/du_b,   w_b of losses.py.

The backward pass brings g_b delta_b to the layer's output, where g_b is the gradient of the loss at the output z_b of
sample b. Multiplying it by sqrt(w_b) / |g_b| and squaring gives w_b delta_b^2 for any loss. The square comes last, because
in float32 the square of a small gradient underflows.

In an optimizer's basis (optim/basis.py), inputs and sqrt(w_b) delta_b are multiplied by the basis before they are squared.
The Kronecker factors are the sums of w_b delta_b delta_b^T, and of u_b a_b a_b^T with the sample's factor u_b in the loss.

A gradient g_b of exactly 0 carries nothing of delta. It is replaced with `_NUDGE`, which is too small to change a gradient.
"""

# pyright: basic
# Autograd functions and their contexts are untyped.
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from dlrm_adahessian.library.attached import add_curvature_, add_factors_
from dlrm_adahessian.library.losses import SecondDerivative
from dlrm_adahessian.optim.basis import KroneckerBasis

_NUDGE = 1e-20
"""Its product with sqrt(w) dz/du is far from both ends of float32's range for any w and gradient seen in training."""


class Tally:
    """Number of samples that the curvature of a step stands for: n = sum_b u_b / sum_b u_b^2, or B for a mean over B.

    With independent labels, the expected squared gradient is sum_b u_b^2 p (1 - p) (dz/dtheta)^2. With this n, it is
    curvature / n, exactly if all nonzero u_b are equal.

    Attributes:
        moments: (2,) float64, the two sums, or their means over ranks.
        samples: () float64, n.
    """

    def __init__(self, device: torch.device, ranks: int) -> None:
        self.moments = torch.zeros(2, dtype=torch.float64, device=device)
        self.samples = torch.ones((), dtype=torch.float64, device=device)
        self._ranks = ranks

    def add_(self, factors: Tensor) -> None:
        """Add samples with factors u (B,)."""
        wide = factors.double()
        self.moments += torch.stack([wide.sum(), wide.square().sum()])
        self.count_()

    def count_(self) -> None:
        """Update `samples` from `moments`."""
        total, squares = self.moments
        # A mean over N ranks gives each sample 1 / N of its factor.
        self.samples.copy_(torch.where(squares > 0, self._ranks * total / squares, 1))


class Pass:
    """A forward pass whose backward pass computes curvature."""

    def __init__(
        self,
        tally: Tally,
        begin: Callable[[], None],
        basis_of: Callable[[nn.Parameter], KroneckerBasis | None],
        *,
        fraction: float,
        compares: bool,
    ) -> None:
        """Prepare to observe layers and outputs.

        Args:
            tally: sample count of the step.
            begin: called when the backward pass reaches the outputs.
            basis_of: returns the basis for a parameter's curvature, or None for coordinates.
            fraction: share of the samples to use, from the first on. Their curvature is scaled to all.
            compares: whether to compare gradients at the outputs with those of the losses, which waits for the device.
        """
        self._tally, self._begin, self._basis_of, self._compares = tally, begin, basis_of, compares
        self._fraction = fraction
        self._second: SecondDerivative | None = None  # of all losses together
        self._of_losses: Tensor | None = None  # gradients at the outputs, (B,)
        self._roots: Tensor | None = None  # sqrt(w) / |g|, (C,), of the first C samples
        self._factors: Tensor | None = None  # u, (C,)
        self.output: Tensor | None = None

    def at_layer(self, layer: nn.Linear, inputs: Tensor, output: Tensor) -> Tensor:
        """Return a replacement for the output (B, out) of a layer with `inputs` (B, in)."""
        return _AtLayer.apply(output, inputs, layer, self)  # pyright: ignore[reportReturnType]

    def at_output(self, output: Tensor) -> Tensor:
        """Return a replacement for the model's output, (B,) or (B, 1)."""
        seen = output.view_as(output)
        self.output = seen.detach()
        seen.register_hook(self._arrive)
        return seen

    def through_loss(self, output: Tensor) -> Tensor:
        """Return a replacement for `output` to pass to a loss, at which the loss's gradients are recorded."""
        given = output.view_as(output)
        if self._compares:
            given.register_hook(self._add_slopes)
        return given

    def _add_slopes(self, slopes: Tensor) -> None:
        flat = slopes.detach().reshape(-1)
        self._of_losses = flat if self._of_losses is None else self._of_losses + flat

    def add_loss(self, second: SecondDerivative, factor: Tensor) -> None:
        """Add a loss that the backward pass reached. `factor`, () or (B,), is the gradient with respect to it."""
        part = second.scaled(factor.reshape(-1))
        self._second = part if self._second is None else self._second + part
        self._tally.add_(part.factors)

    def _arrive(self, slopes: Tensor) -> Tensor:
        """Compute the roots from the gradients at the outputs, and return the gradients to continue with."""
        self._begin()
        second, self._second = self._second, None
        if second is None:
            raise RuntimeError(
                "exact_curvature saw no loss of the model's outputs before backward. Within its block, call "
                "binary_cross_entropy_with_logits or mse_loss of torch.nn.functional, or their modules, on the model's "
                "outputs, unchanged or squeezed. Move casts and factors into the model."
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
                "exact_curvature supports binary_cross_entropy_with_logits and mse_loss only, but the backward pass "
                "depends on the model's outputs in other ways too. Remove those terms, or use "
                "hutchinson_curvature."
            )

    def learn_(self, layer: nn.Linear, inputs: Tensor, slopes: Tensor) -> None:
        """Add the curvature of one layer, from its inputs (B, in) and the gradients (B, out) at its outputs."""
        roots: Any = self._roots
        delta = slopes[: len(roots)] * roots.unsqueeze(1)  # in the dtype of the roots, at least float32
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
        """Add a weight's curvature in its basis and the Kronecker factors. `delta` (C, out) is sqrt(w) dz/du."""
        vector, factors = torch.empty_like(basis.state["factors"]), cast(Tensor, self._factors)
        (matrix,), ((output_factor, input_factor),) = basis.matrices.values(), basis.views(vector).values()
        # Rounding before the change of basis would swamp the small entries.
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
    """Pass a layer's output through and compute the curvature on the way back. Autograd frees the inputs as usual."""

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
