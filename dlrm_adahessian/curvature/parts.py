"""Of which matrix the diagonal is, at each part of a model. Imports no torch.

One backward pass makes the diagonal of the Gauss-Newton matrix of any head of linear layers. It is that of the Hessian
where the logit is piecewise linear in each single entry of the part: d2z/dtheta2 = 0 (curvature/exact.py).
"""

from collections.abc import Mapping
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

    def require_hessian(self, curved_at: Mapping[str, str] | None = None) -> None:
        """Refuse parts whose diagonal is not the Hessian's.

        Args:
            curved_at: by part, where the logit was seen to be curved; None where nothing was measured.

        Raises:
            ValueError: a part is Gauss-Newton; says which, where, and what works.
        """
        names = {"weights": self.weights, "pooled": self.pooled}
        curved = [part for part, kind in names.items() if kind != "hessian"]
        if not curved:
            return
        where = "; ".join(f"{part}, at {place}" for part, place in (curved_at or {}).items())
        raise ValueError(
            "the exact Hessian diagonal needs a logit that is piecewise linear in each single parameter and pooled entry, "
            f"and this model's is curved in its {where or ' and '.join(curved)}; use curvature gauss_newton (in Python "
            'ExactDiagonal(kind="gauss_newton")) or hutchinson'
        )
