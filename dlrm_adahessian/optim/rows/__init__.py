"""Rules for touched embedding rows: a file each, with its settings and its kernels. This is the table; imports no torch.

The settings of a rule have its `name` in configuration files, what it reads of the curvature (`pooled_curvature`), and what
a search draws from (`tuned`). Their `build` makes the rule. A learning rate is what the rule multiplies its direction with;
the schedule scales all of them alike.
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
