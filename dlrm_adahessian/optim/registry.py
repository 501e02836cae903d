"""From a configuration to its optimizer: a line each."""

import math
from collections.abc import Sequence

from torch import Tensor

from dlrm_adahessian.optim.adagrad import Adagrad
from dlrm_adahessian.optim.adahessian import AdaHessian
from dlrm_adahessian.optim.adam import Adam
from dlrm_adahessian.optim.base import DenseOptimizer, RowRule
from dlrm_adahessian.optim.config import (
    AdagradConfig,
    AdaHessianConfig,
    AdamConfig,
    DenseConfig,
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowConfig,
    RowwiseAdagradConfig,
)
from dlrm_adahessian.optim.row_adagrad import RowAdagrad
from dlrm_adahessian.optim.row_adahessian import RowAdaHessian
from dlrm_adahessian.optim.row_hessian_adagrad import HessianAdagrad
from dlrm_adahessian.optim.row_rowwise_adagrad import RowwiseAdagrad


def dense_optimizer(cfg: DenseConfig, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
    """Return the optimizer of a flat (P,) vector, in which parameters of the given shapes lie one after another."""
    match cfg:
        case AdaHessianConfig():
            return AdaHessian(parameters, cfg, [math.prod(shape) for shape in shapes])
        case AdagradConfig():
            return Adagrad(parameters, cfg)
        case AdamConfig():
            return Adam(parameters, cfg)


def row_rule(cfg: RowConfig) -> RowRule:
    """Return the rule that updates touched rows."""
    match cfg:
        case HessianAdagradConfig():
            return HessianAdagrad(cfg)
        case RowAdaHessianConfig():
            return RowAdaHessian(cfg)
        case RowAdagradConfig():
            return RowAdagrad(cfg)
        case RowwiseAdagradConfig():
            return RowwiseAdagrad(cfg)
