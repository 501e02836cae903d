"""Sizes of the model, and what its dense part needs in memory. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from dlrm_adahessian.runtime.settings import settings

_FLOAT = 4  # bytes
_COPIES = 4  # of each layer's values: value, delta, and both squared for the exact diagonal, or Hutchinson's second pass


@settings
class ModelConfig:
    """DLRM; the defaults are facebookresearch/dlrm's for Criteo Kaggle."""

    embedding_dim: int = Field(default=16, ge=1)
    """D, width of the tables and of the bottom MLP's output."""
    bottom: tuple[int, ...] = (512, 256, 64)
    """Hidden widths of the bottom MLP, between K inputs and D outputs; without dense columns there is none."""
    top: tuple[int, ...] = (512, 256)
    """Hidden widths of the top MLP, between the interactions and the logit."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Of all hidden layers; the exact Hessian diagonal needs relu."""
    self_interaction: bool = False
    """Whether a feature's dot product with itself is an input of the top MLP."""


@dataclass(frozen=True, kw_only=True)
class DenseMemory:
    """Bytes of what every rank needs beside its shards: the MLPs, their optimizer, and a batch on its way through them.

    Attributes:
        kept: parameters, derivatives, optimizer state; exact.
        per_sample: activations for each sample of the rank's batch; at most.
    """

    kept: int = 0
    per_sample: int = 0


NO_DENSE = DenseMemory()


def dense_memory(
    cfg: ModelConfig, *, parameter_bytes: int, state_bytes: int, num_dense: int, num_features: int
) -> DenseMemory:
    """Return what the dense part takes in float32.

    Args:
        cfg: widths.
        parameter_bytes: of all MLPs.
        state_bytes: of what the dense optimizer keeps.
        num_dense: K.
        num_features: F.
    """
    dim, vectors = cfg.embedding_dim, num_features + (num_dense > 0)
    pairs = vectors * (vectors - 1 + 2 * cfg.self_interaction) // 2
    bottom = num_dense + sum(cfg.bottom) + dim if num_dense else 0
    read = dim if num_dense else num_features * dim
    layers = bottom + read + pairs + sum(cfg.top)
    interaction = vectors * (dim + vectors)
    return DenseMemory(
        kept=3 * parameter_bytes + state_bytes,  # with gradient and curvature
        per_sample=_FLOAT * _COPIES * (layers + interaction),
    )
