"""Settings of each architecture, the kind of its curvature, and the memory of its dense part.

Imports no torch. Each head has its own file, and `registry` finds it by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from dlrm_adahessian.curvature.parts import Kind, Parts
from dlrm_adahessian.runtime.settings import settings

Width = Annotated[int, Field(ge=1)]

_FLOAT = 4  # bytes
_COPIES = (
    4  # arrays per layer: value, delta, and both squared for the exact diagonal (or Hutchinson's second pass)
)


@settings
class Architecture(ABC):
    """Settings that all architectures share."""

    rows_lr_divisor: ClassVar[float] = 1.0
    """Divisor of the presets' row learning rates, which were tuned for DLRM."""
    embedding_dim: int = Field(default=16, ge=1)
    """Embedding width D; dlrm: also the bottom MLP's output; deepfm: D - 1 factors and a weight."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Activation of all hidden layers; the exact Hessian diagonal needs relu."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of hidden layers in training steps; predictions use no dropout."""
    initial_rows: Annotated[float, Field(gt=0)] | None = None
    """Bound b of the initial embeddings, uniform in [-b, b]; default: 1 / sqrt(rows of the table)."""
    l2_weights: float = Field(default=0.0, ge=0)
    """Factor lambda of the penalty lambda/2 |w|^2 on all weights and biases."""
    l2_rows: float = Field(default=0.0, ge=0)
    """Factor lambda of the penalty lambda/2 |row|^2 on each embedding row in a batch."""

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """Which matrix the curvature from one backward pass is the diagonal of."""

    @abstractmethod
    def activations(self, num_dense: int, num_features: int) -> int:
        """Return the activations per sample from K dense inputs and F pooled embeddings to the logit."""

    def _hidden(self, widths: Sequence[int]) -> int:
        """Return the number of outputs of hidden layers, counted before and after dropout if there is any."""
        return sum(widths) * (2 if self.dropout else 1)

    @abstractmethod
    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return the number of parameters of the dense part with K dense inputs and F pooled embeddings."""

    def least_bytes(self, samples: int, num_dense: int, num_features: int) -> int:
        """Return the minimum bytes of the dense part and a batch in float32, with K dense inputs and F features."""
        numbers = self.parameters(num_dense, num_features) + samples * self.activations(
            num_dense, num_features
        )
        return _FLOAT * numbers

    @property
    def _linear(self) -> Kind:
        """Return the kind of curvature if everything except the activation is linear."""
        return "hessian" if self.activation == "relu" else "gauss_newton"


@settings
class DLRMConfig(Architecture):
    """DLRM, with the defaults of facebookresearch/dlrm for Criteo Kaggle."""

    name: Literal["dlrm"] = "dlrm"
    """Which architecture."""
    bottom: tuple[Width, ...] = (512, 256, 64)
    """Hidden widths of the bottom MLP, between K inputs and D outputs; unused without numeric features."""
    top: tuple[Width, ...] = (512, 256)
    """Hidden widths of the top MLP, between the interactions and the logit."""
    self_interaction: bool = False
    """Include each feature's dot product with itself in the input of the top MLP."""

    @property
    def parts(self) -> Parts:
        """The Hessian, unless self-interaction or the activation makes the logit nonlinear."""
        kind: Kind = "gauss_newton" if self.self_interaction else self._linear
        return Parts(weights=kind, pooled=kind)

    def activations(self, num_dense: int, num_features: int) -> int:
        """Return the activations per sample: layers, vectors, and all pairwise products of vectors."""
        dim, vectors = self.embedding_dim, num_features + (num_dense > 0)
        bottom = num_dense + self._hidden(self.bottom) + dim if num_dense else 0
        return (
            bottom + self._read(num_dense, num_features) + self._hidden(self.top) + vectors * (dim + vectors)
        )

    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return the number of parameters of the two MLPs."""
        bottom = _mlp_parameters([num_dense, *self.bottom, self.embedding_dim]) if num_dense else 0
        return bottom + _mlp_parameters([self._read(num_dense, num_features), *self.top, 1])

    def _read(self, num_dense: int, num_features: int) -> int:
        """Return the number of inputs of the top MLP."""
        vectors = num_features + (num_dense > 0)
        pairs = vectors * (vectors - 1 + 2 * self.self_interaction) // 2
        return pairs + self.embedding_dim * (1 if num_dense else num_features)


@settings
class DeepFMConfig(Architecture):
    """DeepFM: a factorization machine and an MLP in parallel."""

    rows_lr_divisor: ClassVar[float] = 5.0  # measured with three presets, docs/models.md
    name: Literal["deepfm"] = "deepfm"
    """Which architecture."""
    embedding_dim: int = Field(default=16, ge=2)
    """Embedding width D: D - 1 factors of the factorization machine, and the linear weight."""
    initial_rows: Annotated[float, Field(gt=0)] | None = 0.01
    """Bound b of the initial embeddings; small, because no layer scales the products of factors."""
    deep: tuple[Width, ...] = (400, 400, 400)
    """Hidden widths of the MLP; default: the paper's for Criteo."""

    @property
    def parts(self) -> Parts:
        """The Hessian; at the pooled embeddings in each single entry, because products are of different features."""
        return Parts(weights=self._linear, pooled=self._linear)

    def activations(self, num_dense: int, num_features: int) -> int:
        """Return the activations per sample: layers, squared factors, sums of factors, and squared sums."""
        factors = self.embedding_dim - 1
        layers = num_dense + num_dense + num_features * self.embedding_dim + self._hidden(self.deep)
        return layers + num_features * factors + 3 * factors

    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return the number of parameters of the MLP, plus the linear weights of the dense inputs."""
        return num_dense + _mlp_parameters([num_dense + num_features * self.embedding_dim, *self.deep, 1])


@settings
class DCNv2Config(Architecture):
    """DCN V2: cross layers before or parallel to an MLP."""

    name: Literal["dcnv2"] = "dcnv2"
    """Which architecture."""
    crosses: int = Field(default=3, ge=1)
    """Number of cross layers."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """Rank of the cross matrices U V^T; default: full matrices."""
    deep: tuple[Width, ...] = (512, 256)
    """Hidden widths of the MLP."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """stacked: the MLP reads the last cross; parallel: it reads the inputs, and a last layer both."""

    @property
    def parts(self) -> Parts:
        """The Hessian at the weights only: crosses are linear in their weights but multiply the pooled embeddings."""
        return Parts(weights=self._linear, pooled="gauss_newton")

    def activations(self, num_dense: int, num_features: int) -> int:
        """Return the activations per sample: inputs, product and sum of each cross, and the layers."""
        width = num_dense + num_features * self.embedding_dim
        crosses = self.crosses * (3 * width + (self.rank or 0))
        last = 0 if self.structure == "stacked" else width + (width, *self.deep)[-1]
        return width + crosses + width + self._hidden(self.deep) + last

    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return the number of parameters of the crosses, the MLP, and the last layer."""
        width = num_dense + num_features * self.embedding_dim
        cross = width * (width if self.rank is None else 2 * self.rank) + width
        last = (width, *self.deep)[-1] + (0 if self.structure == "stacked" else width)
        return self.crosses * cross + _mlp_parameters([width, *self.deep]) + last + 1


def _mlp_parameters(widths: Sequence[int]) -> int:
    """Return the number of weights and biases of layers with these widths."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def _named(values: Any) -> Any:
    """Treat settings without a name as DLRM's. They were written when DLRM was the only architecture."""
    return {"name": "dlrm", **values} if isinstance(values, Mapping) else values


ModelConfig = Annotated[
    Annotated[DLRMConfig | DeepFMConfig | DCNv2Config, Field(discriminator="name")], BeforeValidator(_named)
]
"""Settings of any architecture. To add an architecture, add its class here."""


@dataclass(frozen=True, kw_only=True)
class DenseMemory:
    """Memory of a rank's dense part in bytes: layers, their optimizer, and the activations of a batch.

    Attributes:
        kept: exact bytes of parameters, derivatives, and optimizer state.
        per_sample: upper bound of the activations per sample of the rank's batch.
    """

    kept: int = 0
    per_sample: int = 0


NO_DENSE = DenseMemory()


def dense_memory(
    cfg: Architecture, *, parameter_bytes: int, state_bytes: int, num_dense: int, num_features: int
) -> DenseMemory:
    """Return the memory of the dense part in float32.

    Args:
        cfg: settings of the architecture.
        parameter_bytes: bytes of all layers.
        state_bytes: bytes of the dense optimizer's state.
        num_dense: K.
        num_features: F.
    """
    return DenseMemory(
        kept=3 * parameter_bytes + state_bytes,  # parameters, gradient, and curvature
        per_sample=_FLOAT * _COPIES * cfg.activations(num_dense, num_features),
    )
