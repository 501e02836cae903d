"""The dense half of DLRM: bottom MLP, dot interaction, top MLP.

Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation Systems", 2019. The initial
weights follow its reference implementation: normal with variance 2 / (in + out), biases with variance 1 / out.

The paper has both kinds of column. Without dense columns there is no bottom MLP, and the pooled embeddings stand in the
place of its output: the top MLP reads them beside their products. Of products alone a row would have a slope as small as
the other rows are at first. Without categorical columns there is one vector and no pair: bottom, then top.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import trained
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.model.config import ModelConfig

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


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
        cfg: ModelConfig,
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

        Raises:
            ValueError: there is nothing to read.
        """
        super().__init__()
        if num_dense + num_features == 0:
            raise ValueError(
                "a model reads at least one column, got no dense and no categorical ones; give it one"
            )
        activation, dim = _ACTIVATIONS[cfg.activation], cfg.embedding_dim
        # Without squares each product is linear in each entry.
        kind = "hessian" if cfg.activation == "relu" and not cfg.self_interaction else "gauss_newton"
        self.parts = Parts(weights=kind, pooled=kind)
        self.bottom = None
        if num_dense:
            self.bottom = _mlp([num_dense, *cfg.bottom, dim], activation, generator, dtype).append(
                activation()
            )
        vectors = num_features + (num_dense > 0)
        self.interaction = DotInteraction(vectors, self_interaction=cfg.self_interaction)
        inputs = (dim if num_dense else num_features * dim) + self.interaction.pairs
        self.top = _mlp([inputs, *cfg.top, 1], activation, generator, dtype)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """Map dense (B, K) and pooled (B, F, D) to logits (B,)."""
        if self.bottom is None:
            read, vectors = pooled.flatten(1), pooled
        else:
            read = self.bottom(dense)
            vectors = torch.cat([read.unsqueeze(1), pooled], 1)
        return self.top(torch.cat([read, self.interaction(vectors)], 1)).squeeze(1)

    @torch.no_grad()
    def shift_(self, logits: float) -> None:
        """Add a number to all logits, in place."""
        *_, bias = self.top.parameters()
        bias.add_(logits)


def _mlp(
    widths: Sequence[int], activation: type[nn.Module], generator: torch.Generator, dtype: torch.dtype
) -> nn.Sequential:
    """Return linear layers with activations between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layer = nn.Linear(inputs, outputs, dtype=dtype)
        with torch.no_grad():
            layer.weight.normal_(0, math.sqrt(2 / (inputs + outputs)), generator=generator)
            layer.bias.normal_(0, math.sqrt(1 / outputs), generator=generator)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


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
