"""Compute the dense part of DCN V2: cross layers, with an MLP after or parallel to them.

Wang, Shivanna, Cheng, Jain, Lin, Hong, Chi, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
Learning to Rank Systems", 2021. Let x_0 be the concatenation of the dense inputs and the pooled embeddings. Elementwise,

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l.

With low rank, W_l = U_l V_l^T. In the stacked structure the MLP reads the last x. In the parallel structure it reads x_0,
and the last layer reads both. MLPerf's DLRM-DCNv2 is stacked, with low-rank crosses and an additional MLP for the dense
inputs, which the paper and this module do not have.

A cross is linear in W_l (or in U_l, or in V_l) and in the output of the previous crosses, so the logit is piecewise
linear in each of these matrices. It is a polynomial in each entry of x_0. At the pooled embeddings, one backward pass
therefore gives the diagonal of the Gauss-Newton matrix; that of the Hessian may even be negative.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import DCNv2Config
from dlrm_adahessian.model.layers import hidden, linear


class Head(nn.Module):
    """Map K dense inputs and F pooled embeddings to a logit; K or F may be 0, but not both.

    Attributes:
        crosses: linear layers of the crosses, W x + b, or V^T x then U x + b with low rank; K + F * D inputs and outputs.
        deep: hidden layers on the last x (stacked) or on x_0 (parallel).
        last: layer from the output of `deep`, in parallel concatenated after the last x, to the logit.
    """

    parts: Parts
    """Which matrix `ExactDiagonal` returns the diagonal of."""

    def __init__(
        self,
        cfg: DCNv2Config,
        *,
        num_dense: int,
        num_features: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build and initialize the layers.

        Args:
            cfg: crosses, widths, and activation.
            num_dense: K.
            num_features: F.
            generator: CPU generator for the initial weights.
            dtype: dtype of the parameters.
        """
        super().__init__()
        self.parts = cfg.parts
        self._structure: Literal["stacked", "parallel"] = cfg.structure
        width = num_dense + num_features * cfg.embedding_dim
        self.crosses = nn.ModuleList(
            _products(width, cfg.rank, generator=generator, dtype=dtype) for _ in range(cfg.crosses)
        )
        widths = [width, *cfg.deep]
        self.deep = hidden(widths, cfg.activation, dropout=cfg.dropout, generator=generator, dtype=dtype)
        read = widths[-1] if cfg.structure == "stacked" else width + widths[-1]
        self.last = linear(read, 1, generator=generator, dtype=dtype)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Map dense (B, K) and pooled (B, F, D) to logits (B,)."""
        first = crossed = torch.cat([dense, pooled.flatten(1)], 1)
        for products in self.crosses:
            crossed = first * products(crossed) + crossed
        if self._structure == "stacked":
            return self.last(self.deep(crossed)).squeeze(1)
        return self.last(torch.cat([crossed, self.deep(first)], 1)).squeeze(1)

    @property
    def bias(self) -> Tensor:
        """Parameter (1,) that is added to every logit."""
        return self.last.bias


def _products(
    width: int, rank: int | None, *, generator: torch.Generator, dtype: torch.dtype
) -> nn.Sequential:
    """Return the module for W x + b, or for U (V^T x) + b with low rank."""
    if rank is None:
        return nn.Sequential(linear(width, width, generator=generator, dtype=dtype))
    return nn.Sequential(
        linear(width, rank, generator=generator, dtype=dtype, bias=False),
        linear(rank, width, generator=generator, dtype=dtype),
    )
