"""Update rules for embedding rows, one per file with its settings and kernels. Does not import torch.

The settings of a rule contain its `name` in configuration files, the curvature it reads (`pooled_curvature`), and its search
space (`tuned`). Their `build` method creates the rule. The learning rate multiplies the rule's direction, and the schedule
scales all learning rates alike.
"""

from dlrm_adahessian.optim.rows.adagrad import RowAdagradConfig
from dlrm_adahessian.optim.rows.adahessian import RowAdaHessianConfig
from dlrm_adahessian.optim.rows.adam import RowAdamConfig
from dlrm_adahessian.optim.rows.cowclip import CowClipConfig
from dlrm_adahessian.optim.rows.hessian_adagrad import HessianAdagradConfig
from dlrm_adahessian.optim.rows.rowwise_adagrad import RowwiseAdagradConfig
from dlrm_adahessian.optim.rows.sgd import RowSGDConfig
from dlrm_adahessian.optim.rows.sophia import RowSophiaConfig

RowConfig = (
    CowClipConfig
    | HessianAdagradConfig
    | RowAdaHessianConfig
    | RowAdagradConfig
    | RowAdamConfig
    | RowSGDConfig
    | RowSophiaConfig
    | RowwiseAdagradConfig
)
