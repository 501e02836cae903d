"""The dense half of DLRM: bottom MLP, dot interaction, top MLP.

Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019.

The paper has both kinds of column. Without dense columns there is no bottom MLP, and the pooled embeddings stand in the
place of its output: the top MLP reads them beside their products. Of products alone a row would have a slope as small as
the other rows are at first. Without categorical columns there is one vector and no pair: bottom, then top.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import trained
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.layers import hidden, mlp


class DotInteraction(nn.Module):
    """All dot products of distinct vectors of a sample, or with self-interaction of all pairs."""

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
        # Position of each ordered pair among the products; a pair without product points past the end.
        position = torch.full((vectors, vectors), self.pairs)
        position[rows, columns] = position[columns, rows] = torch.arange(self.pairs)
        self.register_buffer("_picked", rows * vectors + columns, persistent=False)
        self.register_buffer("_position", position.reshape(-1), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, V, D) to (B, pairs)."""
        return _PairProducts.apply(vectors, self._picked, self._position, self._squares)


class _PairProducts(torch.autograd.Function):
    """Products of pairs; backward gathers a symmetric matrix where autograd's own would scatter into one."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, picked: Tensor, position: Tensor, squares: bool) -> Tensor:
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        ctx.save_for_backward(vectors.to(products.dtype), position)  # under autocast they differ
        ctx.squares = squares
        return products.flatten(1).index_select(1, picked)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        vectors, position = ctx.saved_tensors
        batch, count, _ = vectors.shape
        padded = torch.cat([grads[0], grads[0].new_zeros(batch, 1)], 1)
        symmetric = padded.index_select(1, position).view(batch, count, count)
        if ctx.squares:  # the slope of x * x is 2 x, and it stands once in the matrix
            symmetric = symmetric + torch.diag_embed(symmetric.diagonal(dim1=1, dim2=2))
        return torch.bmm(symmetric, vectors), None, None, None


class Head(nn.Module):
    """K dense inputs and F pooled embeddings to a logit; K or F may be 0, not both.

    Attributes:
        bottom: K inputs to D; None without dense columns.
        interaction: products of the bottom's output, if any, and the pooled embeddings.
        top: the bottom's output (D), or without it the pooled embeddings (F * D), and the products, to the logit.
    """

    parts: Parts
    """Of which matrix the diagonal of `ExactDiagonal` is."""

    def __init__(
        self,
        cfg: DLRMConfig,
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
        dim = cfg.embedding_dim
        self.parts = cfg.parts
        self.bottom = None
        if num_dense:
            widths = [num_dense, *cfg.bottom]
            self.bottom = hidden(
                widths, cfg.activation, dropout=cfg.dropout, generator=generator, dtype=dtype
            )
            # What it returns stands beside the embeddings, and has no dropout, as they have none.
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
        """The parameter (1,) that every logit has as a term."""
        *_, bias = self.top.parameters()
        return bias


def flatten_parameters_(module: nn.Module) -> Tensor:
    """Move all parameters that require a gradient into one vector, of which they become views.

    Args:
        module: its parameters share device and dtype.

    Returns:
        (P,), in the order of `module.parameters()`, as of `Derivatives.grad`; writing to it writes to the parameters.
    """
    parameters = trained(module)
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])
    for p, view in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        p.data = view.view_as(p)
    return vector
