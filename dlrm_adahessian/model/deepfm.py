"""The dense half of DeepFM: a factorization machine and an MLP on the same embeddings; the logit is their sum.

Guo, Tang, Ye, Li, He, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", 2017. With v_f the pooled
embedding of feature f without its last entry, w_f that entry, x the dense inputs:

    z = sum_{f<g} <v_f, v_g> + sum_f w_f + <u, x> + MLP(x, v, w).

So a table holds a feature's factors and its linear weight. Departures from the paper: dense inputs have a linear weight
and reach the MLP, but have no factors; the MLP reads the w_f too; the constant of the linear part is the bias of the MLP's
last layer.

A product is of two different features, and no entry meets itself: z is piecewise linear in each single entry of v and w,
and in all of u. Without dense columns there is no u, without categorical ones no factorization machine.
"""

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import DeepFMConfig
from dlrm_adahessian.model.layers import linear, mlp


class Head(nn.Module):
    """K dense inputs and F pooled embeddings to a logit; K or F may be 0, not both.

    Attributes:
        linear: u, K inputs to a number, without bias; None without dense columns.
        deep: the inputs (K) and the pooled embeddings (F * D) to a number.
    """

    parts: Parts
    """Of which matrix the diagonal of `ExactDiagonal` is."""

    def __init__(
        self,
        cfg: DeepFMConfig,
        *,
        num_dense: int,
        num_features: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build and initialise.

        Args:
            cfg: widths and activation.
            num_dense: K.
            num_features: F.
            generator: of the initial weights, on the CPU.
            dtype: of the parameters.
        """
        super().__init__()
        self.parts = cfg.parts
        self.linear = (
            linear(num_dense, 1, generator=generator, dtype=dtype, bias=False) if num_dense else None
        )
        inputs = num_dense + num_features * cfg.embedding_dim
        self.deep = mlp(
            [inputs, *cfg.deep], cfg.activation, dropout=cfg.dropout, generator=generator, dtype=dtype
        )

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Map dense (B, K) and pooled (B, F, D) to logits (B,)."""
        logits = self.deep(torch.cat([dense, pooled.flatten(1)], 1)).squeeze(1)
        logits = logits + factorization_machine(pooled)
        return logits if self.linear is None else logits + self.linear(dense).squeeze(1)

    @property
    def bias(self) -> Tensor:
        """The parameter (1,) that every logit has as a term."""
        *_, bias = self.deep.parameters()
        return bias


def factorization_machine(pooled: Tensor) -> Tensor:
    """Return the products of all pairs and the linear weights, summed: (B, F, D) to (B,), D - 1 factors and a weight.

    The pairs are half of the square of the sum without the sum of the squares (Rendle, "Factorization Machines", 2010).
    """
    factors, weights = pooled[..., :-1], pooled[..., -1]
    pairs = (factors.sum(1).square() - factors.square().sum(1)).sum(1) / 2
    return pairs + weights.sum(1)
