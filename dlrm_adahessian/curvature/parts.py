"""The matrix whose diagonal one backward pass computes, for each part of a model. Does not import torch.

One backward pass computes the diagonal of the Gauss-Newton matrix for any head of linear layers. It is the Hessian's if
the logit is piecewise linear in each single entry of the part: d2z/dtheta2 = 0 (curvature/exact.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["hessian", "gauss_newton"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The matrix whose diagonal one backward pass computes.

    Attributes:
        weights: matrix at the weights and biases of the linear layers.
        pooled: matrix at the pooled embeddings, and therefore at the embedding rows.
    """

    weights: Kind
    pooled: Kind

    def require_hessian(self, curved_at: Mapping[str, str] | None = None) -> None:
        """Refuse parts whose diagonal is not the Hessian's.

        Args:
            curved_at: by part, where the logit has second derivatives; None if the head was not checked.

        Raises:
            ValueError: a part is Gauss-Newton. The message says which part, where, and what to use instead.
        """
        names = {"weights": self.weights, "pooled": self.pooled}
        curved = [part for part, kind in names.items() if kind != "hessian"]
        if not curved:
            return
        where = " and ".join(f"{part} (at {place})" for part, place in (curved_at or {}).items())
        raise ValueError(
            "The exact Hessian diagonal needs a logit that is piecewise linear in each parameter and each pooled entry, "
            f"but this model's logit is curved in its {where or ' and '.join(curved)}. Use curvature gauss_newton "
            '(in Python, ExactDiagonal(kind="gauss_newton")) or hutchinson.'
        )
