"""The dense half of DCN V2: cross layers, and an MLP after them or beside them.

Wang, Shivanna, Cheng, Jain, Lin, Hong, Chi, "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
Learning to Rank Systems", 2021. With x_0 the dense inputs and the pooled embeddings, one after another,

    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l,

entry by entry; of low rank W_l = U_l V_l^T. Stacked, the MLP reads the last x; in parallel it reads x_0, and the last layer
reads both. MLPerf's DLRM-DCNv2 is stacked, with crosses of low rank, and an MLP of its own for the dense inputs, which the
paper and this module lack.

A cross is linear in its W_l, or in U_l, or in V_l, and in what the crosses before it return, so the logit is piecewise
linear in each of these matrices. It is a polynomial of an entry of x_0: at the pooled embeddings the diagonal of one
backward pass is the Gauss-Newton matrix's, and the Hessian's may even be negative.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import DCNv2Config
from dlrm_adahessian.model.layers import hidden, linear


class Head(nn.Module):
    """K dense inputs and F pooled embeddings to a logit; K or F may be 0, not both.

    Attributes:
        crosses: of each cross the linear layer W x + b, or V^T x and U x + b of low rank; K + F * D to as many.
        deep: hidden layers on the last x, or in parallel on x_0.
        last: what `deep` returns, in parallel after the last x, to the logit.
    """

    parts: Parts
    """Of which matrix the diagonal of `ExactDiagonal` is."""

    def __init__(
        self,
        cfg: DCNv2Config,
        *,
        num_dense: int,
        num_features: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build and initialise.

        Args:
            cfg: crosses, widths and activation.
            num_dense: K.
            num_features: F.
            generator: of the initial weights, on the CPU.
            dtype: of the parameters.
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
        """The parameter (1,) that every logit has as a term."""
        return self.last.bias


def _products(
    width: int, rank: int | None, *, generator: torch.Generator, dtype: torch.dtype
) -> nn.Sequential:
    """Return W x + b of a cross, or U (V^T x) + b."""
    if rank is None:
        return nn.Sequential(linear(width, width, generator=generator, dtype=dtype))
    return nn.Sequential(
        linear(width, rank, generator=generator, dtype=dtype, bias=False),
        linear(rank, width, generator=generator, dtype=dtype),
    )
