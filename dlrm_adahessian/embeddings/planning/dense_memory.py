"""What every rank needs in memory beside its shards: the MLPs, their optimizer, and a batch on its way through them."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from dlrm_adahessian.model.config import ModelConfig

_FLOAT = 4  # bytes
_COPIES = 4  # of each layer's values: value, delta, and both squared for the exact diagonal, or Hutchinson's second pass


@dataclass(frozen=True, kw_only=True)
class DenseMemory:
    """Bytes of a rank's dense part.

    Attributes:
        kept: parameters, derivatives, optimizer state; exact.
        per_sample: activations for each sample of the rank's batch; at most.
    """

    kept: int = 0
    per_sample: int = 0


NO_DENSE = DenseMemory()


def dense_memory(
    cfg: ModelConfig, *, parameters: Tensor, state: Iterable[Tensor], num_dense: int, num_features: int
) -> DenseMemory:
    """Return what the dense part takes in float32.

    Args:
        cfg: widths.
        parameters: (P,), all of the MLPs.
        state: what the dense optimizer keeps.
        num_dense: K.
        num_features: F.
    """
    vectors = num_features + 1
    pairs = vectors * (vectors - 1 + 2 * cfg.self_interaction) // 2
    layers = num_dense + sum(cfg.bottom) + sum(cfg.top) + 2 * cfg.embedding_dim + pairs
    interaction = vectors * (cfg.embedding_dim + vectors)
    return DenseMemory(
        kept=3 * parameters.nbytes + sum(tensor.nbytes for tensor in state),  # with gradient and curvature
        per_sample=_FLOAT * _COPIES * (layers + interaction),
    )
