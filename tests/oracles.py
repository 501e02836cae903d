"""Independent float64 oracles: the exact Hessian of a small model with its tables, and its Gauss-Newton matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dlrm_adahessian.model.config import DCNv2Config, DeepFMConfig, DLRMConfig, ModelConfig
from dlrm_adahessian.model.dlrm import Head
from dlrm_adahessian.model.registry import new_head

DENSE, FEATURES, ROWS, WIDTH, BATCH = 4, 3, 5, 3, 7
PARTS = {
    "both kinds of column": (DENSE, FEATURES),
    "no dense column": (0, FEATURES),
    "one categorical column alone": (0, 1),
    "no categorical column": (DENSE, 0),
}
"""Numbers of numeric (K) and categorical (F) features by kind of model."""


def small_config(name: str = "dlrm", **changes: object) -> ModelConfig:
    kind, widths = {
        "dlrm": (DLRMConfig, {"bottom": (6,), "top": (5,)}),
        "deepfm": (DeepFMConfig, {"deep": (6, 5)}),
        "dcnv2": (DCNv2Config, {"deep": (6, 5)}),
    }[name]
    return kind(**{"embedding_dim": WIDTH, **widths, **changes})


def small_head(num_dense: int = DENSE, num_features: int = FEATURES, **changes: object) -> Head:
    cfg = small_config(**changes)
    generator = torch.Generator().manual_seed(1)
    return new_head(
        cfg, num_dense=num_dense, num_features=num_features, generator=generator, dtype=torch.float64
    )


def small_batch(
    seed: int = 2, num_dense: int = DENSE, num_features: int = FEATURES
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return dense (B, K), tables (F, R, D), hits (F, B, R) with the count of each row in each bag, and labels (B,)."""
    g = torch.Generator().manual_seed(seed)
    dense = torch.rand(BATCH, num_dense, generator=g, dtype=torch.float64)
    tables = torch.randn(num_features, ROWS, WIDTH, generator=g, dtype=torch.float64)
    hits = torch.randint(0, 3, (num_features, BATCH, ROWS), generator=g).double()
    labels = (torch.rand(BATCH, generator=g) < 0.4).double()
    return dense, tables, hits, labels


def repeated(weights: Tensor, dense: Tensor, hits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Repeat each sample by its integer weight (B,)."""
    times = weights.long()
    of_samples = (part.repeat_interleave(times, 0) for part in (dense, labels))
    dense, labels = of_samples
    return dense, hits.repeat_interleave(times, 1), labels


def pooled_of(tables: Tensor, hits: Tensor) -> Tensor:
    return torch.einsum("fbr,frd->bfd", hits, tables)


def plain_logits(
    values: dict[str, Tensor],
    cfg: ModelConfig,
    dense: Tensor,
    pooled: Tensor,
    masks: dict[str, Tensor] | None = None,
) -> Tensor:
    """Compute a model's logits from its parameters alone. `masks` are dropout factors (B, out) by the layer before."""
    activation = {"relu": F.relu, "gelu": F.gelu}[cfg.activation]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ values[f"{name}.weight"].T + values.get(f"{name}.bias", 0)

    def hidden(x: Tensor, name: str) -> Tensor:
        return activation(linear(x, name)) * (masks or {}).get(name, 1)

    if cfg.name != "dlrm":
        plain = {"deepfm": _plain_deepfm, "dcnv2": _plain_dcnv2}[cfg.name]
        return plain(cfg, linear, hidden, dense, pooled)
    vectors = list(pooled.unbind(1))
    read = vectors
    if dense.shape[1]:
        read = [hidden(hidden(dense, "bottom.0"), "bottom.2")]
        vectors = read + vectors
    pairs = [(i, j) for i in range(len(vectors)) for j in range(i + cfg.self_interaction)]
    products = [(vectors[i] * vectors[j]).sum(1, keepdim=True) for i, j in pairs]
    return linear(hidden(torch.cat([*read, *products], 1), "top.0"), "top.2").squeeze(1)


def _plain_deepfm(cfg: DeepFMConfig, linear, hidden, dense: Tensor, pooled: Tensor) -> Tensor:
    deep = torch.cat([dense, *pooled.unbind(1)], 1)
    for layer in range(len(cfg.deep)):
        deep = hidden(deep, f"deep.{2 * layer}")
    z = linear(deep, f"deep.{2 * len(cfg.deep)}").squeeze(1)
    if dense.shape[1]:
        z = z + linear(dense, "linear").squeeze(1)
    for f, vector in enumerate(pooled.unbind(1)):
        z = z + vector[:, -1]
        for other in pooled.unbind(1)[:f]:
            z = z + sum(vector[:, d] * other[:, d] for d in range(cfg.embedding_dim - 1))
    return z


def _plain_dcnv2(cfg: DCNv2Config, linear, hidden, dense: Tensor, pooled: Tensor) -> Tensor:
    first = x = torch.cat([dense, *pooled.unbind(1)], 1)
    for cross in range(cfg.crosses):
        product = linear(x, f"crosses.{cross}.0")
        if cfg.rank is not None:
            product = linear(product, f"crosses.{cross}.1")
        x = first * product + x
    deep = x if cfg.structure == "stacked" else first
    for layer in range(len(cfg.deep)):
        deep = hidden(deep, f"deep.{2 * layer}")
    return linear(deep if cfg.structure == "stacked" else torch.cat([x, deep], 1), "last").squeeze(1)


def brute_force_diagonals(
    head: Head, cfg: ModelConfig, dense: Tensor, tables: Tensor, hits: Tensor, labels: Tensor
) -> list[Tensor]:
    """Return the Hessian diagonals of the mean loss at each parameter of the head and at the tables, from torch.func."""
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
    """Return integer weights (B,), one of them 0, and the factors on the losses that give the same weighted mean."""
    weights = torch.tensor([2.0, 0.0, 1.0, 3.0, 1.0, 1.0, 4.0], dtype=torch.float64)
    return weights, weights / weights.mean()


def gauss_newton(logits, at: Tensor) -> Tensor:
    """Return the Gauss-Newton matrix of the mean loss at all entries of a tensor, (P, P), from the logits' Jacobian."""
    flat = at.reshape(-1)
    jacobian = torch.func.jacfwd(lambda x: logits(x.view_as(at)))(flat)
    p = logits(at).sigmoid()
    return jacobian.T @ ((p * (1 - p) / len(p)).unsqueeze(1) * jacobian)


def hessian(logits, labels: Tensor, at: Tensor) -> Tensor:
    """Return the Hessian of the mean loss at all entries of a tensor, (P, P)."""

    def loss(x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits(x.view_as(at)), labels)

    return torch.func.hessian(loss)(at.reshape(-1))
