"""From the name of an estimator to the estimator: a line each."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from dlrm_adahessian.curvature.base import Estimator
from dlrm_adahessian.curvature.exact import ExactDiagonal, refuse_inexact
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.curvature.none import NoCurvature


def make_estimator(
    name: Literal["exact", "hutchinson", "none"],
    head: nn.Module,
    table_of_feature: Sequence[str],
    *,
    probes: int,
    seed: int,
    device: torch.device,
) -> Estimator:
    """Return the estimator for a model.

    Args:
        name: of the estimator.
        head: dense half of the model.
        table_of_feature: the table that each feature reads.
        probes: of a Hutchinson estimate.
        seed: of its probes.
        device: of the derivatives.

    Returns:
        The estimator.
    """
    match name:
        case "exact":
            refuse_inexact(head, table_of_feature)
            return ExactDiagonal()
        case "hutchinson":
            return Hutchinson(probes, seed, device)
        case "none":
            return NoCurvature()
