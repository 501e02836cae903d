"""Create estimators by name. Does not import torch."""

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
"""Estimators that compute the diagonal in the gradient's backward pass. `exact` also requires that it is the Hessian's."""


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
        name: name of the estimator.
        parts: the matrix of each part of the model's dense half; None to check the head.
        table_of_feature: the table that each feature reads.
        probes: number of Hutchinson probes, or of label draws for Gauss-Newton-Bartlett.
        precision: precision of the extra products of a one-pass diagonal.
        pooled: the pooled curvature that the row rule needs.
        seed: seed of the probes or labels.
        device: device of the derivatives.
        basis: basis in which the dense optimizer needs the curvature; None for coordinates.

    Returns:
        The estimator.

    Raises:
        ValueError: the estimator does not fit the model or does not support a basis.
    """
    # In any head of linear layers, a layer's Gauss-Newton block is sum_b w_b (delta_b delta_b^T) (x) (a_b a_b^T).
    if basis is not None and name not in ONE_PASS:
        raise ValueError(
            f"Curvature in an eigenbasis needs a one-pass estimator, but --curvature is {name}. Use --curvature exact or "
            "gauss_newton, or another --optim.dense.name."
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
    """Return the matrix whose diagonal an estimator computes, or has as its expectation, for each part of a model.

    Args:
        name: name of the estimator.
        parts: the matrix of one backward pass, per part: Gauss-Newton, or the Hessian if the two agree.

    Returns:
        The matrix of the estimator, per part; None if it has no curvature.
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
            "Curvature in one backward pass needs one feature per table, because it has no terms between features. But "
            f"{', '.join(shared)} is read by several features. Use --curvature hutchinson, or separate tables."
        )


def _replayed(estimator: Estimator, device: torch.device) -> Estimator:
    from dlrm_adahessian.curvature.gpu import Graphed

    return Graphed(estimator) if device.type == "cuda" else estimator
