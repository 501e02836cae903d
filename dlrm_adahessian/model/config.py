"""Settings of each architecture, of which matrix its curvature is, and what its dense part needs in memory.

Imports no torch; the heads themselves are in a file each, and `registry` finds them by name.
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
_COPIES = 4  # of each layer's values: value, delta, and both squared for the exact diagonal, or Hutchinson's second pass


@settings
class Architecture(ABC):
    """What all architectures have in common."""

    rows_lr_divisor: ClassVar[float] = 1.0
    """Of the rows' learning rates in the presets, which were tuned for DLRM."""
    embedding_dim: int = Field(default=16, ge=1)
    """D, width of the tables; of dlrm also of the bottom MLP's output, of deepfm D - 1 factors and a weight."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Of all hidden layers; the exact Hessian diagonal needs relu."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of each hidden layer's outputs that a training step leaves out; of predictions none is."""
    initial_rows: Annotated[float, Field(gt=0)] | None = None
    """Bound b of the embedding rows' uniform initial values in [-b, b]; default 1 / sqrt(rows of the table)."""
    l2_weights: float = Field(default=0.0, ge=0)
    """Lambda of the penalty lambda/2 |w|^2 on all weights and biases."""
    l2_rows: float = Field(default=0.0, ge=0)
    """Lambda of the penalty lambda/2 |row|^2 on each embedding row that a batch looks up, once a step."""

    @property
    @abstractmethod
    def parts(self) -> Parts:
        """Of which matrix the diagonal of one backward pass is."""

    @abstractmethod
    def activations(self, num_dense: int, num_features: int) -> int:
        """Return how many numbers a sample is on its way from K dense inputs and F pooled embeddings to its logit."""

    def _hidden(self, widths: Sequence[int]) -> int:
        """Return how many numbers hidden layers of these widths return; with dropout, before it and after it."""
        return sum(widths) * (2 if self.dropout else 1)

    @abstractmethod
    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return how many parameters the dense part has with K dense inputs and F pooled embeddings."""

    def least_bytes(self, samples: int, num_dense: int, num_features: int) -> int:
        """Return what the dense part and a batch take at least in float32, with K dense inputs and F features."""
        numbers = self.parameters(num_dense, num_features) + samples * self.activations(
            num_dense, num_features
        )
        return _FLOAT * numbers

    @property
    def _linear(self) -> Kind:
        """Of which matrix the diagonal is where all but the activation is linear."""
        return "hessian" if self.activation == "relu" else "gauss_newton"


@settings
class DLRMConfig(Architecture):
    """DLRM; the defaults are facebookresearch/dlrm's for Criteo Kaggle."""

    name: Literal["dlrm"] = "dlrm"
    """Which architecture."""
    bottom: tuple[Width, ...] = (512, 256, 64)
    """Hidden widths of the bottom MLP, between K inputs and D outputs; without dense columns there is none."""
    top: tuple[Width, ...] = (512, 256)
    """Hidden widths of the top MLP, between the interactions and the logit."""
    self_interaction: bool = False
    """Whether a feature's dot product with itself is an input of the top MLP."""

    @property
    def parts(self) -> Parts:
        """The Hessian's, unless squares of self-interaction or the activation curve the logit."""
        kind: Kind = "gauss_newton" if self.self_interaction else self._linear
        return Parts(weights=kind, pooled=kind)

    def activations(self, num_dense: int, num_features: int) -> int:
        """Return how many numbers a sample is: of the layers, the vectors and all products of two of them."""
        dim, vectors = self.embedding_dim, num_features + (num_dense > 0)
        bottom = num_dense + self._hidden(self.bottom) + dim if num_dense else 0
        return (
            bottom + self._read(num_dense, num_features) + self._hidden(self.top) + vectors * (dim + vectors)
        )

    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return how many there are in the two MLPs."""
        bottom = _mlp_parameters([num_dense, *self.bottom, self.embedding_dim]) if num_dense else 0
        return bottom + _mlp_parameters([self._read(num_dense, num_features), *self.top, 1])

    def _read(self, num_dense: int, num_features: int) -> int:
        """Return how many inputs the top MLP has."""
        vectors = num_features + (num_dense > 0)
        pairs = vectors * (vectors - 1 + 2 * self.self_interaction) // 2
        return pairs + self.embedding_dim * (1 if num_dense else num_features)


@settings
class DeepFMConfig(Architecture):
    """DeepFM: a factorization machine beside an MLP."""

    rows_lr_divisor: ClassVar[float] = 5.0  # measured with three presets, docs/models.md
    name: Literal["deepfm"] = "deepfm"
    """Which architecture."""
    embedding_dim: int = Field(default=16, ge=2)
    """D, width of the tables: D - 1 factors of the factorization machine, and the linear weight."""
    initial_rows: Annotated[float, Field(gt=0)] | None = 0.01
    """As `Architecture` has it. Small: products of factors reach the logit without a layer between that scales them."""
    deep: tuple[Width, ...] = (400, 400, 400)
    """Hidden widths of the MLP; the paper's for Criteo."""

    @property
    def parts(self) -> Parts:
        """The Hessian's, at the pooled embeddings in each single entry: products are of different features."""
        return Parts(weights=self._linear, pooled=self._linear)

    def activations(self, num_dense: int, num_features: int) -> int:
        """Return how many numbers a sample is: of the layers, the factors' squares, their sums and the sums' squares."""
        factors = self.embedding_dim - 1
        layers = num_dense + num_dense + num_features * self.embedding_dim + self._hidden(self.deep)
        return layers + num_features * factors + 3 * factors

    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return how many there are in the MLP, and the weights of the dense inputs."""
        return num_dense + _mlp_parameters([num_dense + num_features * self.embedding_dim, *self.deep, 1])


@settings
class DCNv2Config(Architecture):
    """DCN V2: cross layers before an MLP, or beside it."""

    name: Literal["dcnv2"] = "dcnv2"
    """Which architecture."""
    crosses: int = Field(default=3, ge=1)
    """Cross layers."""
    rank: Annotated[int, Field(ge=1)] | None = None
    """Of the crosses' matrices, U V^T; default: whole matrices."""
    deep: tuple[Width, ...] = (512, 256)
    """Hidden widths of the MLP."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """Whether the MLP reads what the crosses return, or the inputs, and a last layer both."""

    @property
    def parts(self) -> Parts:
        """The Hessian's at the weights, as a cross is linear in its own; the crosses multiply the pooled with themselves."""
        return Parts(weights=self._linear, pooled="gauss_newton")

    def activations(self, num_dense: int, num_features: int) -> int:
        """Return how many numbers a sample is: inputs, product and sum of each cross, and what the layers take."""
        width = num_dense + num_features * self.embedding_dim
        crosses = self.crosses * (3 * width + (self.rank or 0))
        last = 0 if self.structure == "stacked" else width + (width, *self.deep)[-1]
        return width + crosses + width + self._hidden(self.deep) + last

    def parameters(self, num_dense: int, num_features: int) -> int:
        """Return how many there are in the crosses, the MLP and the last layer."""
        width = num_dense + num_features * self.embedding_dim
        cross = width * (width if self.rank is None else 2 * self.rank) + width
        last = (width, *self.deep)[-1] + (0 if self.structure == "stacked" else width)
        return self.crosses * cross + _mlp_parameters([width, *self.deep]) + last + 1


def _mlp_parameters(widths: Sequence[int]) -> int:
    """Return how many weights and biases the layers between these widths have."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))


def _named(values: Any) -> Any:
    """Take settings without a name for DLRM's, as which they were written before there were others."""
    return {"name": "dlrm", **values} if isinstance(values, Mapping) else values


ModelConfig = Annotated[
    Annotated[DLRMConfig | DeepFMConfig | DCNv2Config, Field(discriminator="name")], BeforeValidator(_named)
]
"""The settings of any architecture; this is the table of them."""


@dataclass(frozen=True, kw_only=True)
class DenseMemory:
    """Bytes of what every rank needs beside its shards: dense layers, their optimizer, and a batch on its way through them.

    Attributes:
        kept: parameters, derivatives, optimizer state; exact.
        per_sample: activations for each sample of the rank's batch; at most.
    """

    kept: int = 0
    per_sample: int = 0


NO_DENSE = DenseMemory()


def dense_memory(
    cfg: Architecture, *, parameter_bytes: int, state_bytes: int, num_dense: int, num_features: int
) -> DenseMemory:
    """Return what the dense part takes in float32.

    Args:
        cfg: the architecture.
        parameter_bytes: of all its layers.
        state_bytes: of what the dense optimizer keeps.
        num_dense: K.
        num_features: F.
    """
    return DenseMemory(
        kept=3 * parameter_bytes + state_bytes,  # with gradient and curvature
        per_sample=_FLOAT * _COPIES * cfg.activations(num_dense, num_features),
    )
