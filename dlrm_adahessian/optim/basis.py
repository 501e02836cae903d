"""Orthogonal bases of weight matrices in which their Hessian blocks are nearly diagonal. Does not import torch.

A layer u = W a has the block sum_b w_b (delta_b delta_b^T) (x) (a_b a_b^T), with delta_b = dz_b/du and w_b = p_b (1 -
p_b) / B. K-FAC separates its two sides, S = sum_b w_b delta_b delta_b^T and A = mean of a_b a_b^T. Their eigenvectors
Q_S and Q_A form a basis of the matrix, in which W is Q_S^T W Q_A. See George, Laurent, Bouthillier, Ballas, Vincent,
"Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis", 2018 (EK-FAC), and Botev, Ritter, Barber
2017 for S of the Gauss-Newton matrix.

Only the k leading eigenvectors of a side matter much. So Q is a product of k Householder reflections, and its first k
columns are those eigenvectors. In compact form, Q = I - Y T Y^T with Y (m, k), multiplying n rows by Q costs 2 n m k
multiply-adds instead of n m^2 (Schreiber, Van Loan, "A Storage-Efficient WY Representation for Products of Householder
Transformations", 1989). For any Y, Q is orthogonal if T^-1 is the upper triangle of Y^T Y with half of its diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dlrm_adahessian.optim.base import new_counter

if TYPE_CHECKING:
    from torch import Tensor

Sides = Literal["both", "input", "output", "none"]


@dataclass(frozen=True)
class Side:
    """An orthogonal matrix Q (m, m) in compact form. All zeros represent the identity.

    Attributes:
        factor: (m, m), the moving average whose leading eigenvectors are the first columns of Q.
        reflectors: Y, (m, k), unit lower trapezoidal.
        product: Y T, (m, k).
    """

    factor: Tensor
    reflectors: Tensor
    product: Tensor

    def turn(self, rows: Tensor) -> Tensor:
        """Return `rows` @ Q, (n, m)."""
        return rows.addmm(rows @ self.product, self.reflectors.T, alpha=-1)

    def matrix(self) -> Tensor:
        """Return Q, (m, m)."""
        import torch

        return self.turn(torch.eye(len(self.factor), dtype=self.factor.dtype, device=self.factor.device))

    def refresh_(self, *, first: bool) -> None:
        """Move the first columns of Q closer to the leading eigenvectors of the factor.

        The first call computes the eigenvectors. Later calls take one step of orthogonal iteration.

        Args:
            first: whether Q is still the identity.
        """
        import torch

        rank = self.reflectors.shape[1]
        if first:
            # In float32, LAPACK returns NaN or does not converge for some factors of low rank, as of inactive units.
            scaled = self.factor.double() / self.factor.abs().max().clamp(
                min=torch.finfo(self.factor.dtype).tiny
            )
            columns = torch.linalg.eigh(scaled)[1][:, -rank:].flip(1).to(self.factor.dtype)
            # For inactive units, eigh returns rounding errors, whose signs would determine the reflections.
            columns.masked_fill_((self.factor.diagonal() == 0).unsqueeze(1), 0)
        else:
            leading = -self.product @ self.reflectors[:rank].T
            leading.diagonal().add_(1)
            moved = self.factor @ leading
            columns = moved[:, (leading * moved).sum(0).argsort(descending=True)]
        reflectors = torch.geqrf(columns)[0].tril_(-1)
        reflectors.diagonal().fill_(1)
        inverse = (reflectors.T @ reflectors).triu_()
        inverse.diagonal().mul_(0.5)
        self.reflectors.copy_(reflectors)
        self.product.copy_(torch.linalg.solve_triangular(inverse, reflectors, upper=True, left=False))


@dataclass(frozen=True)
class Matrix:
    """Basis of one weight matrix (n, m). A side that is None stays in coordinates."""

    output: Side | None
    input: Side | None

    def turn_inputs(self, inputs: Tensor) -> Tensor:
        """Return `inputs` (n, m) @ Q_A."""
        return inputs if self.input is None else self.input.turn(inputs)

    def turn_outputs(self, outputs: Tensor) -> Tensor:
        """Return `outputs` (n, m) @ Q_S."""
        return outputs if self.output is None else self.output.turn(outputs)

    def turn_(self, weight: Tensor) -> None:
        """Replace `weight` with Q_S^T `weight` Q_A."""
        output, inputs = self.output, self.input
        _reflect_(
            weight,
            None if output is None else (output.reflectors, output.product),
            None if inputs is None else (inputs.product, inputs.reflectors),
        )

    def turn_back_(self, weight: Tensor) -> None:
        """Replace `weight` with Q_S `weight` Q_A^T."""
        output, inputs = self.output, self.input
        _reflect_(
            weight,
            None if output is None else (output.product, output.reflectors),
            None if inputs is None else (inputs.reflectors, inputs.product),
        )


def _reflect_(
    weight: Tensor, left: tuple[Tensor, Tensor] | None, right: tuple[Tensor, Tensor] | None
) -> None:
    """Replace `weight` with (I - a b^T) `weight` (I - c d^T), with (a, b) on the left and (c, d) on the right.

    One update of rank 2 k does both. Thin products are memory-bound, and this reads `weight` three times instead of six.
    """
    import torch

    if left is None or right is None:
        if left is not None:
            a, b = left
            weight.addmm_(a, b.T @ weight, alpha=-1)
        if right is not None:
            c, d = right
            weight.addmm_(weight @ c, d.T, alpha=-1)
        return
    (a, b), (c, d) = left, right
    columns = weight @ c
    rows = (b.T @ weight).addmm_(b.T @ columns, d.T, alpha=-1)
    weight.addmm_(torch.cat([columns, a], 1), torch.cat([d.T, rows]), alpha=-1)


class KroneckerBasis:
    """Bases of all weight matrices of a head, stored as parts of flat tensors that a checkpoint contains.

    Attributes:
        diagonal: whether to compute the curvature in the basis, in addition to the factors.
        state: `factors` (K,), `reflectors` and `products` (R,), `observations` 0-dim int64.
        matrices: bases by position of the parameter; biases have none.
    """

    def __init__(
        self,
        parameters: Tensor,
        shapes: Sequence[Sequence[int]],
        *,
        sides: Sides,
        rank: int,
        decay: float,
        diagonal: bool,
    ) -> None:
        """Start with coordinates.

        Args:
            parameters: (P,), for dtype and device.
            shapes: shapes of the parameters in order.
            sides: sides of a weight matrix that get a basis. A side with one entry needs none.
            rank: number of leading eigenvectors per side; fewer for shorter sides.
            decay: decay of the moving averages of the factors, per observation.
            diagonal: whether to compute the curvature in the basis.
        """
        self.diagonal = diagonal
        self._decay = decay
        sizes = {
            (i, side): size
            for i, shape in enumerate(shapes)
            if len(shape) == 2
            for side, size in zip(("output", "input"), shape, strict=True)
            if sides in (side, "both") and size > 1
        }
        ranks = [(m, min(rank, m)) for m in sizes.values()]
        self.state = {
            "factors": parameters.new_zeros(sum(m * m for m, _ in ranks)),
            "reflectors": parameters.new_zeros(sum(m * k for m, k in ranks)),
            "products": parameters.new_zeros(sum(m * k for m, k in ranks)),
            "observations": new_counter(),
        }
        square, tall = [m * m for m, _ in ranks], [m * k for m, k in ranks]
        parts = zip(
            sizes,
            ranks,
            self.state["factors"].split(square),
            self.state["reflectors"].split(tall),
            self.state["products"].split(tall),
            strict=True,
        )
        found = {
            key: Side(factor.view(m, m), reflectors.view(m, k), product.view(m, k))
            for key, (m, k), factor, reflectors, product in parts
        }
        self.matrices = {
            i: Matrix(found.get((i, "output")), found.get((i, "input")))
            for i, shape in enumerate(shapes)
            if len(shape) == 2
        }

    def views(self, factors: Tensor) -> dict[int, tuple[Tensor | None, Tensor | None]]:
        """Return the parts (n, n) and (m, m) of a vector of factors (K,), by position of the parameter."""
        offset, found = 0, {}
        for i, matrix in self.matrices.items():
            parts: list[Tensor | None] = []
            for side in (matrix.output, matrix.input):
                size = 0 if side is None else side.factor.numel()
                parts.append(None if side is None else factors[offset : offset + size].view_as(side.factor))
                offset += size
            found[i] = (parts[0], parts[1])
        return found

    def observe_(self, factors: Tensor) -> int:
        """Add a batch's factors (K,) to the moving averages, and return how many batches they have seen."""
        seen = int(self.state["observations"].add_(1))
        # A plain mean at first, which gives the initial zeros no weight.
        self.state["factors"].lerp_(factors, max(1 - self._decay, 1 / seen))
        return seen
