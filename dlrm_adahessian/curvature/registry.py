"""Names of the estimators, and from a name to its estimator: a case each. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import nn

    from dlrm_adahessian.curvature.base import Estimator
    from dlrm_adahessian.optim.base import PooledCurvature
    from dlrm_adahessian.optim.basis import KroneckerBasis
    from dlrm_adahessian.runtime.device import Precision

CurvatureName = Literal["exact", "hutchinson", "gauss_newton_bartlett", "none"]


def make_estimator(
    name: CurvatureName,
    head: nn.Module,
    table_of_feature: Sequence[str],
    *,
    probes: int,
    precision: Precision,
    pooled: PooledCurvature,
    seed: int,
    device: torch.device,
    basis: KroneckerBasis | None = None,
) -> Estimator:
    """Return the estimator for a model.

    Args:
        name: of the estimator.
        head: dense half of the model.
        table_of_feature: the table that each feature reads.
        probes: of a Hutchinson estimate, or draws of labels of a Gauss-Newton-Bartlett one.
        precision: of the exact diagonal's own products.
        pooled: what rows want of the curvature.
        seed: of the probes or the labels.
        device: of the derivatives.
        basis: in which the dense optimizer wants the curvature; None for coordinates.

    Returns:
        The estimator.

    Raises:
        ValueError: the estimator is not right for this model, or does not know the basis.
    """
    if basis is not None and name != "exact":
        raise ValueError(
            f"the curvature in an eigenbasis must be exact, and --curvature is {name}; use --curvature exact, or another "
            "--optim.dense.name"
        )
    match name:
        case "exact":
            from dlrm_adahessian.curvature.exact import ExactDiagonal, refuse_inexact

            refuse_inexact(head, table_of_feature)
            return _replayed(ExactDiagonal(precision, pooled, basis), device)
        case "hutchinson":
            from dlrm_adahessian.curvature.hutchinson import Hutchinson

            return Hutchinson(probes, seed, device, pooled)
        case "gauss_newton_bartlett":
            from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett

            return GaussNewtonBartlett(probes, seed, device, pooled)
        case "none":
            from dlrm_adahessian.curvature.base import NoCurvature

            return _replayed(NoCurvature(), device)


def _replayed(estimator: Estimator, device: torch.device) -> Estimator:
    from dlrm_adahessian.curvature.gpu import Graphed

    return Graphed(estimator) if device.type == "cuda" else estimator
