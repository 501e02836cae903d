"""Names of the estimators, and from a name to its estimator: a case each. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from dlrm_adahessian.curvature.parts import Parts

if TYPE_CHECKING:
    import torch

    from dlrm_adahessian.curvature.base import Estimator
    from dlrm_adahessian.optim.base import PooledCurvature
    from dlrm_adahessian.optim.basis import KroneckerBasis
    from dlrm_adahessian.runtime.device import Precision

CurvatureName = Literal["exact", "gauss_newton", "hutchinson", "gauss_newton_bartlett", "none"]
ONE_PASS = ("exact", "gauss_newton")
"""Those that make the diagonal in the gradient's backward pass: the same computation, which of `exact` is the Hessian's."""


def make_estimator(
    name: CurvatureName,
    parts: Parts | None,
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
        parts: of which matrix the diagonal is for the dense half of the model; None to measure it.
        table_of_feature: the table that each feature reads.
        probes: of a Hutchinson estimate, or draws of labels of a Gauss-Newton-Bartlett one.
        precision: of the own products of a diagonal made in one pass.
        pooled: what rows want of the curvature.
        seed: of the probes or the labels.
        device: of the derivatives.
        basis: in which the dense optimizer wants the curvature; None for coordinates.

    Returns:
        The estimator.

    Raises:
        ValueError: the estimator is not right for this model, or does not know the basis.
    """
    # The Gauss-Newton block of a layer is sum_b w_b (delta_b delta_b^T) (x) (a_b a_b^T) in any head of linear layers.
    if basis is not None and name not in ONE_PASS:
        raise ValueError(
            f"the curvature in an eigenbasis is made in one pass, and --curvature is {name}; use --curvature exact or "
            "gauss_newton, or another --optim.dense.name"
        )
    match name:
        case "exact" | "gauss_newton":
            from dlrm_adahessian.curvature.exact import ExactDiagonal

            _refuse_shared_tables(table_of_feature)
            kind = "hessian" if name == "exact" else "gauss_newton"
            return _replayed(ExactDiagonal(precision, pooled, basis, kind=kind, parts=parts), device)
        case "hutchinson":
            from dlrm_adahessian.curvature.hutchinson import Hutchinson

            return Hutchinson(probes, seed, device, pooled)
        case "gauss_newton_bartlett":
            from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett

            return GaussNewtonBartlett(probes, seed, device, pooled)
        case "none":
            from dlrm_adahessian.curvature.base import NoCurvature

            return _replayed(NoCurvature(), device)


def matrix_of(name: CurvatureName, parts: Parts) -> Parts | None:
    """Return of which matrix an estimator's diagonal is, or is in expectation, at each part of a model.

    Args:
        name: of the estimator.
        parts: of which matrix that of one backward pass is: Gauss-Newton, or the Hessian where the two agree.

    Returns:
        The same for the estimator; None where there is no curvature.
    """
    match name:
        case "none":
            return None
        case "hutchinson":
            return Parts(weights="hessian", pooled="hessian")
        case _:
            return parts


def _refuse_shared_tables(table_of_feature: Sequence[str]) -> None:
    shared = sorted({table for table in table_of_feature if table_of_feature.count(table) > 1})
    if shared:
        raise ValueError(
            "the diagonal of one backward pass needs one feature per table, since it has no terms between features, and "
            f"{', '.join(shared)} is read by several; use --curvature hutchinson, or separate tables"
        )


def _replayed(estimator: Estimator, device: torch.device) -> Estimator:
    from dlrm_adahessian.curvature.gpu import Graphed

    return Graphed(estimator) if device.type == "cuda" else estimator
