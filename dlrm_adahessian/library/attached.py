# pyright: reportAttributeAccessIssue=false
"""What a parameter carries beside its gradient: `p.curvature`, for how many samples it stands, and in which basis.

`p.curvature` is a tensor like the parameter, or None. `p.curvature_samples` is the number n for which the expected square of
the gradient is curvature / n where the model is right (Fisher): the samples of a mean loss, and 1 for a sum.

`p.curvature_basis` is the basis of an optimizer in which `p.curvature` is, or None for coordinates. With a basis
`p.curvature_factors` has the Kronecker factors (K,) of the same samples (optim/basis.py).
"""

from collections.abc import Iterable

from torch import Tensor, nn

from dlrm_adahessian.optim.basis import KroneckerBasis


def add_curvature_(parameter: nn.Parameter, diagonal: Tensor, samples: Tensor) -> None:
    """Add to `p.curvature`, as a backward pass adds to `p.grad`.

    Args:
        parameter: of any shape.
        diagonal: like the parameter; kept where there was none.
        samples: () that all the curvature stands for now.
    """
    before: Tensor | None = getattr(parameter, "curvature", None)
    parameter.curvature = diagonal if before is None else before.add_(diagonal)
    parameter.curvature_samples = samples


def add_factors_(parameter: nn.Parameter, factors: Tensor, basis: KroneckerBasis) -> None:
    """Add to `p.curvature_factors`, and say of which basis they are.

    Args:
        parameter: of any shape.
        factors: (K,), as `basis` has them; kept where there were none.
        basis: of the parameter.
    """
    before = factors_of(parameter)
    parameter.curvature_factors = factors if before is None else before.add_(factors)
    parameter.curvature_basis = basis


def curvature_of(parameter: nn.Parameter) -> Tensor | None:
    """Return the curvature of a parameter, None where it has none now."""
    found: Tensor | None = getattr(parameter, "curvature", None)
    if found is not None and found.shape != parameter.shape:
        raise ValueError(
            f"p.curvature has the shape of its parameter, {tuple(parameter.shape)}, got {tuple(found.shape)}; set it to a "
            "tensor like p.grad"
        )
    return found


def samples_of(parameter: nn.Parameter) -> float:
    """Return for how many samples the curvature of a parameter stands; waits for the device."""
    found: Tensor | float | None = getattr(parameter, "curvature_samples", None)
    if found is None:
        raise ValueError(
            "a parameter has p.curvature and no p.curvature_samples; set it to the samples that the mean loss is over"
        )
    return float(found)


def factors_of(parameter: nn.Parameter) -> Tensor | None:
    """Return the Kronecker factors (K,) of a parameter, None where it has none now."""
    return getattr(parameter, "curvature_factors", None)


def basis_of(parameter: nn.Parameter) -> KroneckerBasis | None:
    """Return the basis that the curvature of a parameter is in, None for coordinates."""
    return getattr(parameter, "curvature_basis", None)


def clear_curvature(parameters: Iterable[nn.Parameter]) -> None:
    """Take the curvature away with its factors, as `zero_grad` does with the gradient."""
    for parameter in parameters:
        parameter.curvature = parameter.curvature_factors = parameter.curvature_basis = None
