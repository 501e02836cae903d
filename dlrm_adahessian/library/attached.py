# pyright: reportAttributeAccessIssue=false
"""Attributes of a parameter that describe its curvature: the diagonal, its number of samples, and its basis.

`p.curvature` is a tensor with the parameter's shape, or None. `p.curvature_samples` is the number n for which curvature / n
is the expected squared gradient if the model is right (Fisher): the number of samples for a mean loss, and 1 for a sum.

`p.curvature_basis` is the optimizer's basis of `p.curvature`, or None for coordinates. With a basis,
`p.curvature_factors` has the Kronecker factors (K,) of the same samples (optim/basis.py).
"""

from collections.abc import Iterable

from torch import Tensor, nn

from dlrm_adahessian.optim.basis import KroneckerBasis


def add_curvature_(parameter: nn.Parameter, diagonal: Tensor, samples: Tensor) -> None:
    """Add to `p.curvature`, as a backward pass adds to `p.grad`.

    Args:
        parameter: of any shape.
        diagonal: tensor with the parameter's shape; stored as it is if the parameter has no curvature yet.
        samples: () number of samples of all the curvature, this one included.
    """
    before: Tensor | None = getattr(parameter, "curvature", None)
    parameter.curvature = diagonal if before is None else before.add_(diagonal)
    parameter.curvature_samples = samples


def add_factors_(parameter: nn.Parameter, factors: Tensor, basis: KroneckerBasis) -> None:
    """Add to `p.curvature_factors` and record their basis.

    Args:
        parameter: of any shape.
        factors: (K,), laid out as in `basis`; stored as they are if the parameter has none yet.
        basis: basis of the parameter.
    """
    before = factors_of(parameter)
    parameter.curvature_factors = factors if before is None else before.add_(factors)
    parameter.curvature_basis = basis


def curvature_of(parameter: nn.Parameter) -> Tensor | None:
    """Return the curvature of a parameter, or None if it has none."""
    found: Tensor | None = getattr(parameter, "curvature", None)
    if found is not None and found.shape != parameter.shape:
        raise ValueError(
            f"p.curvature needs the shape of its parameter, {tuple(parameter.shape)}, but got {tuple(found.shape)}. Set it "
            "to a tensor like p.grad."
        )
    return found


def samples_of(parameter: nn.Parameter) -> float:
    """Return the number of samples of a parameter's curvature. Waits for the device."""
    found: Tensor | float | None = getattr(parameter, "curvature_samples", None)
    if found is None:
        raise ValueError(
            "A parameter has p.curvature but no p.curvature_samples. Set it to the number of samples in the mean loss."
        )
    return float(found)


def factors_of(parameter: nn.Parameter) -> Tensor | None:
    """Return the Kronecker factors (K,) of a parameter, or None if it has none."""
    return getattr(parameter, "curvature_factors", None)


def basis_of(parameter: nn.Parameter) -> KroneckerBasis | None:
    """Return the basis of a parameter's curvature, or None for coordinates."""
    return getattr(parameter, "curvature_basis", None)


def clear_curvature(parameters: Iterable[nn.Parameter]) -> None:
    """Remove the curvature and its factors, as `zero_grad` removes the gradient."""
    for parameter in parameters:
        parameter.curvature = parameter.curvature_factors = parameter.curvature_basis = None
