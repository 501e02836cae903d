"""Compute the dense part of DLRM: bottom MLP, dot interaction, top MLP.

Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019.

The paper assumes both kinds of feature. Without dense inputs there is no bottom MLP. The top MLP then reads the pooled
embeddings themselves in addition to their products: with products alone, the gradient of an embedding row would be as small
as the initial values of the other rows. Without categorical features there is no pair: the bottom MLP feeds the top MLP.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import trained
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.layers import hidden, mlp


class DotInteraction(nn.Module):
    """Compute the dot products of all pairs of distinct vectors of a sample, optionally including self-pairs."""

    def __init__(self, vectors: int, *, self_interaction: bool) -> None:
        """Index the pairs.

        Args:
            vectors: V, vectors per sample.
            self_interaction: include each vector's product with itself.
        """
        super().__init__()
        self._squares = self_interaction
        rows, columns = torch.tril_indices(vectors, vectors, 0 if self_interaction else -1)
        self.pairs = len(rows)
        # Position of each ordered pair among the products. A pair without a product points past the end.
        position = torch.full((vectors, vectors), self.pairs)
        position[rows, columns] = position[columns, rows] = torch.arange(self.pairs)
        self.register_buffer("_picked", rows * vectors + columns, persistent=False)
        self.register_buffer("_position", position.reshape(-1), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, V, D) to (B, pairs)."""
        return _PairProducts.apply(vectors, self._picked, self._position, self._squares)


class _PairProducts(torch.autograd.Function):
    """Select the products of pairs. Backward gathers into a symmetric matrix, where autograd would scatter."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, picked: Tensor, position: Tensor, squares: bool) -> Tensor:
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        ctx.save_for_backward(vectors.to(products.dtype), position)  # dtypes differ under autocast
        ctx.squares = squares
        return products.flatten(1).index_select(1, picked)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        vectors, position = ctx.saved_tensors
        batch, count, _ = vectors.shape
        padded = torch.cat([grads[0], grads[0].new_zeros(batch, 1)], 1)
        symmetric = padded.index_select(1, position).view(batch, count, count)
        if ctx.squares:  # the derivative of x * x is 2 x, but the matrix contains it once
            symmetric = symmetric + torch.diag_embed(symmetric.diagonal(dim1=1, dim2=2))
        return torch.bmm(symmetric, vectors), None, None, None


class Head(nn.Module):
    """Map K dense inputs and F pooled embeddings to a logit; K or F may be 0, but not both.

    Attributes:
        bottom: MLP from K inputs to D outputs; None without dense inputs.
        interaction: products of the bottom MLP's output, if any, and the pooled embeddings.
        top: MLP from the bottom's output (D), or without it the pooled embeddings (F * D), and the products to the logit.
    """

    parts: Parts
    """Which matrix `ExactDiagonal` returns the diagonal of."""

    def __init__(
        self,
        cfg: DLRMConfig,
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
        dim = cfg.embedding_dim
        self.parts = cfg.parts
        self.bottom = None
        if num_dense:
            widths = [num_dense, *cfg.bottom]
            self.bottom = hidden(
                widths, cfg.activation, dropout=cfg.dropout, generator=generator, dtype=dtype
            )
            # The output is treated like an embedding, and embeddings have no dropout.
            self.bottom.extend(hidden([widths[-1], dim], cfg.activation, generator=generator, dtype=dtype))
        vectors = num_features + (num_dense > 0)
        self.interaction = DotInteraction(vectors, self_interaction=cfg.self_interaction)
        inputs = (dim if num_dense else num_features * dim) + self.interaction.pairs
        self.top = mlp(
            [inputs, *cfg.top], cfg.activation, dropout=cfg.dropout, generator=generator, dtype=dtype
        )

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Map dense (B, K) and pooled (B, F, D) to logits (B,)."""
        if self.bottom is None:
            read, vectors = pooled.flatten(1), pooled
        else:
            read = self.bottom(dense)
            vectors = torch.cat([read.unsqueeze(1), pooled], 1)
        return self.top(torch.cat([read, self.interaction(vectors)], 1)).squeeze(1)

    @property
    def bias(self) -> Tensor:
        """Parameter (1,) that is added to every logit."""
        *_, bias = self.top.parameters()
        return bias


def flatten_parameters_(module: nn.Module) -> Tensor:
    """Move all parameters that require a gradient into one vector, and make the parameters views of it.

    Args:
        module: a module whose parameters share device and dtype.

    Returns:
        (P,), in the order of `module.parameters()` and `Derivatives.grad`. Writing to it changes the parameters.
    """
    parameters = trained(module)
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])
    for p, view in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        p.data = view.view_as(p)
    return vector
