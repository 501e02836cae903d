"""Optimizers of the dense part: a file each, with its settings. This is the table; imports no torch.

The settings of an optimizer have its `name` in configuration files, whether it reads curvature (`uses_curvature`), and what
a search draws from (`tuned`). Their `build` makes the optimizer. A learning rate is what the rule multiplies its direction
with; the schedule scales all of them alike.
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
