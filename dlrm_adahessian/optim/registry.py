"""From a configuration to its optimizer: a line each."""

import math
from collections.abc import Sequence

from torch import Tensor

from dlrm_adahessian.optim.base import DenseOptimizer, RowRule
from dlrm_adahessian.optim.config import (
    AdagradConfig,
    AdaHessianConfig,
    AdamConfig,
    DenseConfig,
    DenseHessianAdagradConfig,
    HessianAdagradConfig,
    MuonConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowAdamConfig,
    RowConfig,
    RowSGDConfig,
    RowSophiaConfig,
    RowwiseAdagradConfig,
    SGDConfig,
    SOAPConfig,
    SophiaConfig,
)
from dlrm_adahessian.optim.dense.adagrad import Adagrad
from dlrm_adahessian.optim.dense.adahessian import AdaHessian
from dlrm_adahessian.optim.dense.adam import Adam
from dlrm_adahessian.optim.dense.hessian_adagrad import DenseHessianAdagrad
from dlrm_adahessian.optim.dense.muon import Muon
from dlrm_adahessian.optim.dense.sgd import SGD
from dlrm_adahessian.optim.dense.soap import SOAP
from dlrm_adahessian.optim.dense.sophia import Sophia
from dlrm_adahessian.optim.rows.adagrad import RowAdagrad
from dlrm_adahessian.optim.rows.adahessian import RowAdaHessian
from dlrm_adahessian.optim.rows.adam import RowAdam
from dlrm_adahessian.optim.rows.hessian_adagrad import HessianAdagrad
from dlrm_adahessian.optim.rows.rowwise_adagrad import RowwiseAdagrad
from dlrm_adahessian.optim.rows.sgd import RowSGD
from dlrm_adahessian.optim.rows.sophia import RowSophia


def dense_optimizer(cfg: DenseConfig, parameters: Tensor, shapes: Sequence[Sequence[int]]) -> DenseOptimizer:
    """Return the optimizer of a flat (P,) vector, in which parameters of the given shapes lie one after another."""
    match cfg:
        case AdaHessianConfig():
            return AdaHessian(parameters, cfg, [math.prod(shape) for shape in shapes])
        case AdagradConfig():
            return Adagrad(parameters, cfg)
        case AdamConfig():
            return Adam(parameters, cfg)
        case DenseHessianAdagradConfig():
            return DenseHessianAdagrad(parameters, cfg)
        case MuonConfig():
            return Muon(parameters, cfg, shapes)
        case SGDConfig():
            return SGD(parameters, cfg)
        case SOAPConfig():
            return SOAP(parameters, cfg, shapes)
        case SophiaConfig():
            return Sophia(parameters, cfg)


def row_rule(cfg: RowConfig) -> RowRule:
    """Return the rule that updates touched rows."""
    match cfg:
        case HessianAdagradConfig():
            return HessianAdagrad(cfg)
        case RowAdaHessianConfig():
            return RowAdaHessian(cfg)
        case RowAdagradConfig():
            return RowAdagrad(cfg)
        case RowAdamConfig():
            return RowAdam(cfg)
        case RowSGDConfig():
            return RowSGD(cfg)
        case RowSophiaConfig():
            return RowSophia(cfg)
        case RowwiseAdagradConfig():
            return RowwiseAdagrad(cfg)
