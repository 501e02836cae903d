"""Optimizers of the dense part, one per file with its settings. Does not import torch.

The settings of an optimizer contain its `name` in configuration files, whether it reads curvature (`uses_curvature`), and
its search space (`tuned`). Their `build` method creates the optimizer. The learning rate multiplies the rule's direction,
and the schedule scales all learning rates alike.
"""

from dlrm_adahessian.optim.dense.adagrad import AdagradConfig
from dlrm_adahessian.optim.dense.adahessian import AdaHessianConfig
from dlrm_adahessian.optim.dense.adam import AdamConfig
from dlrm_adahessian.optim.dense.eigenbasis import EigenbasisConfig
from dlrm_adahessian.optim.dense.hessian_adagrad import DenseHessianAdagradConfig
from dlrm_adahessian.optim.dense.muon import MuonConfig
from dlrm_adahessian.optim.dense.schedule_free import ScheduleFreeConfig
from dlrm_adahessian.optim.dense.sgd import SGDConfig
from dlrm_adahessian.optim.dense.shampoo import ShampooConfig
from dlrm_adahessian.optim.dense.soap import SOAPConfig
from dlrm_adahessian.optim.dense.sophia import SophiaConfig

DenseConfig = (
    AdaHessianConfig
    | AdagradConfig
    | AdamConfig
    | EigenbasisConfig
    | DenseHessianAdagradConfig
    | MuonConfig
    | ScheduleFreeConfig
    | SGDConfig
    | ShampooConfig
    | SOAPConfig
    | SophiaConfig
)
