"""What `plan` is asked. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from dlrm_adahessian.embeddings.config import Sharding
from dlrm_adahessian.optim.config import OptimConfig
from dlrm_adahessian.runtime.settings import settings


@settings
class PlanConfig:
    """Tables, machines and an optimizer."""

    tables: str = "kaggle"
    """kaggle, a name in presets/tables, or a TOML file like those: rows of each table, and the model's widths."""
    hosts: int = Field(default=1, ge=1)
    gpus_per_host: int = Field(default=8, ge=1)
    """Ranks per host; on CPUs too."""
    memory_gib: float = Field(default=80, gt=0)
    """Memory of a rank: of a GPU, or of its share of a host's."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What the ranks compute on."""
    embedding_dim: Annotated[int, Field(ge=1)] | None = None
    """D, width of the tables; default: that of the tables' model."""
    batch_size: int = Field(default=65_536, ge=1)
    """Samples a step, over all ranks."""
    optimizer: str = "hybrid"
    """The name of a file in presets/optimizers."""
    sharding: Sharding = "auto"
    """Of all tables; auto leaves each to TorchRec's planner."""
    json: bool = False
    """Print one JSON document instead of text."""
    optim: OptimConfig = OptimConfig()

    @property
    def ranks(self) -> int:
        """In all."""
        return self.hosts * self.gpus_per_host
