"""Independent truths in float64: the exact Hessian of a small DLRM, tables included."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.model.dlrm import Head

DENSE, FEATURES, ROWS, WIDTH, BATCH = 4, 3, 5, 3, 7
PARTS = {
    "both kinds of column": (DENSE, FEATURES),
    "no dense column": (0, FEATURES),
    "one categorical column alone": (0, 1),
    "no categorical column": (DENSE, 0),
}
"""K and F of the kinds of model."""


def small_config(**changes: object) -> ModelConfig:
    return ModelConfig(**{"embedding_dim": WIDTH, "bottom": (6,), "top": (5,), **changes})


def small_head(num_dense: int = DENSE, num_features: int = FEATURES, **changes: object) -> Head:
    cfg = small_config(**changes)
    generator = torch.Generator().manual_seed(1)
    return Head(cfg, num_dense=num_dense, num_features=num_features, generator=generator, dtype=torch.float64)


def small_batch(
    seed: int = 2, num_dense: int = DENSE, num_features: int = FEATURES
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dense (B, K), tables (F, R, D), hits (F, B, R) that count how often a bag has a row, labels (B,)."""
    g = torch.Generator().manual_seed(seed)
    dense = torch.rand(BATCH, num_dense, generator=g, dtype=torch.float64)
    tables = torch.randn(num_features, ROWS, WIDTH, generator=g, dtype=torch.float64)
    hits = torch.randint(0, 3, (num_features, BATCH, ROWS), generator=g).double()
    labels = (torch.rand(BATCH, generator=g) < 0.4).double()
    return dense, tables, hits, labels


def repeated(weights: Tensor, dense: Tensor, hits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample as often as its whole weight (B,) says."""
    times = weights.long()
    of_samples = (part.repeat_interleave(times, 0) for part in (dense, labels))
    dense, labels = of_samples
    return dense, hits.repeat_interleave(times, 1), labels


def pooled_of(tables: Tensor, hits: Tensor) -> Tensor:
    return torch.einsum("fbr,frd->bfd", hits, tables)


def plain_logits(values: dict[str, Tensor], cfg: ModelConfig, dense: Tensor, pooled: Tensor) -> Tensor:
    """DLRM once more, from the parameters alone."""
    activation = {"relu": F.relu, "gelu": F.gelu}[cfg.activation]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]

    vectors = list(pooled.unbind(1))
    read = vectors
    if dense.shape[1]:
        read = [activation(linear(activation(linear(dense, "bottom.0")), "bottom.2"))]
        vectors = read + vectors
    pairs = [(i, j) for i in range(len(vectors)) for j in range(i + cfg.self_interaction)]
    products = [(vectors[i] * vectors[j]).sum(1, keepdim=True) for i, j in pairs]
    return linear(activation(linear(torch.cat([*read, *products], 1), "top.0")), "top.2").squeeze(1)


def brute_force_diagonals(
    head: Head, cfg: ModelConfig, dense: Tensor, tables: Tensor, hits: Tensor, labels: Tensor
) -> list[Tensor]:
    """Diagonal of the Hessian of the mean loss at each parameter of the head and at the tables, by torch.func."""
    named = {name: p.detach() for name, p in head.named_parameters()}

    def loss(values: dict[str, Tensor], tables: Tensor) -> Tensor:
        logits = plain_logits(values, cfg, dense, pooled_of(tables, hits))
        return F.binary_cross_entropy_with_logits(logits, labels)

    def diagonal(function, at: Tensor) -> Tensor:
        hessian = torch.func.hessian(lambda x: function(x.view_as(at)))(at.reshape(-1))
        return hessian.diagonal().view_as(at)

    found = [diagonal(lambda x, n=name: loss({**named, n: x}, tables), p) for name, p in named.items()]
    return [*found, diagonal(lambda x: loss(named, x), tables)]


def small_weights() -> tuple[Tensor, Tensor]:
    """Return whole weights (B,), one of them 0, and the factors that they are on the samples' losses in a plain mean."""
    weights = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0, 1.0, 4.0], dtype=torch.float64)
    return weights, weights / weights.mean()
