"""Compute the dense part of DeepFM: the sum of a factorization machine and an MLP on the same embeddings.

Guo, Tang, Ye, Li, He, "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", 2017. Let w_f be the last
entry of the pooled embedding of feature f, v_f the other entries, and x the dense inputs:

    z = sum_{f<g} <v_f, v_g> + sum_f w_f + <u, x> + MLP(x, v, w).

A table thus stores both the factors and the linear weight of a feature. Departures from the paper: dense inputs have a
linear weight and enter the MLP, but have no factors. The MLP also reads the w_f. The bias of the MLP's last layer serves as
the constant of the linear part.

Each product involves two different features, so no entry is multiplied by itself: z is piecewise linear in each single
entry of v and w, and jointly in u. Without dense inputs there is no u; without categorical features there is no
factorization machine.
"""

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import DeepFMConfig
from dlrm_adahessian.model.layers import linear, mlp


class Head(nn.Module):
    """Map K dense inputs and F pooled embeddings to a logit; K or F may be 0, but not both.

    Attributes:
        linear: u, a linear layer from K inputs to 1 output, without bias; None without dense inputs.
        deep: MLP from dense inputs (K) and pooled embeddings (F * D) to 1 output.
    """

    parts: Parts
    """Which matrix `ExactDiagonal` returns the diagonal of."""

    def __init__(
        self,
        cfg: DeepFMConfig,
        *,
        num_dense: int,
        num_features: int,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Build and initialize the layers.

        Args:
            cfg: widths and activation.
            num_dense: K.
            num_features: F.
            generator: CPU generator for the initial weights.
            dtype: dtype of the parameters.
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
        """Parameter (1,) that is added to every logit."""
        *_, bias = self.deep.parameters()
        return bias


def factorization_machine(pooled: Tensor) -> Tensor:
    """Return the sum of all pairwise products and linear weights: (B, F, D) to (B,), D - 1 factors and a weight.

    The pairs sum to half of (squared sum - sum of squares) (Rendle, "Factorization Machines", 2010).
    """
    factors, weights = pooled[..., :-1], pooled[..., -1]
    pairs = (factors.sum(1).square() - factors.square().sum(1)).sum(1) / 2
    return pairs + weights.sum(1)
