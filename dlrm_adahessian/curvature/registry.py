"""From the name of an estimator to the estimator: a line each."""

from collections.abc import Sequence

import torch
from torch import nn

from dlrm_adahessian.curvature.base import Estimator
from dlrm_adahessian.curvature.config import CurvatureName, PooledCurvature
from dlrm_adahessian.curvature.exact import ExactDiagonal, refuse_inexact
from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett
from dlrm_adahessian.curvature.graphed import Graphed
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.curvature.none import NoCurvature
from dlrm_adahessian.runtime.device import Precision


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

    Returns:
        The estimator.
    """
    match name:
        case "exact":
            refuse_inexact(head, table_of_feature)
            return _replayed(ExactDiagonal(precision, pooled), device)
        case "hutchinson":
            return Hutchinson(probes, seed, device, pooled)
        case "gauss_newton_bartlett":
            return GaussNewtonBartlett(probes, seed, device, pooled)
        case "none":
            return _replayed(NoCurvature(), device)


def _replayed(estimator: Estimator, device: torch.device) -> Estimator:
    return Graphed(estimator) if device.type == "cuda" else estimator
