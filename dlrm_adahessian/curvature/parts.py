"""Of which matrix the diagonal is, at each part of a model.

One backward pass makes the diagonal of the Gauss-Newton matrix of any head of linear layers. It is that of the Hessian
where the logit is piecewise linear in each single entry of the part: d2z/dtheta2 = 0 (curvature/exact.py).
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["hessian", "gauss_newton"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the diagonal of one backward pass is.

    Attributes:
        weights: at the weights and biases of the linear layers.
        pooled: at the pooled embeddings, and so at the rows of the tables.
    """

    weights: Kind
    pooled: Kind
