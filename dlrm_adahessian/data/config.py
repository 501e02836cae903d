"""Settings of the data: dataset, cache, vocabulary, and order of samples. Imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dlrm_adahessian.runtime.settings import settings

DatasetName = Literal["criteo", "criteo_1tb", "criteo_x1", "criteo_x4", "avazu", "synthetic"]
"""Names of datasets. Each raw one has a schema in presets/schemas, except criteo, whose columns are defined in code."""
GENERATED: tuple[DatasetName, ...] = ("synthetic",)
"""Datasets that are generated and need no `--data-path`."""
BadRows = Literal["strict", "quarantine"]
"""Handling of bad lines: stop at the first one, or write them to a file and count them."""
MOVES_NOTHING = ("cache_dir", "prefetch", "max_rejected")
"""Settings of `DataConfig` that change neither samples nor results."""


@settings
class SyntheticConfig:
    """Click model and marginal distributions of generated data."""

    seed: int = Field(default=0, ge=0)
    """Seed of the generated data, independent of the training seed."""
    cardinality_scale: float = Field(default=0.02, gt=0, le=1)
    """Distinct tokens per feature, as a fraction of Criteo's; at least 3."""


@settings
class DataConfig:
    """Preparation and order of the data."""

    cache_dir: Path = Path("data/cache")
    """Folder for prepared data and finished baselines."""
    min_count: int = Field(default=10, ge=1)
    """Tokens that occur less often in the training part share one embedding row."""
    max_rejected: float = Field(default=0.01, ge=0, le=1)
    """Largest share of bad lines with --bad-rows quarantine; fewer than 100 are always allowed."""
    train_rows: Annotated[int, Field(ge=1)] | None = None
    """Train on the last N training samples only; the vocabulary still comes from all of them."""
    train_files: tuple[str, ...] = ()
    """Training files of a folder: names or patterns such as 'day_[0-5]*'. Default: all except the test files. Other files
    are not read."""
    test_files: tuple[str, ...] = ()
    """Test files of a folder: names or patterns. Their last half validates. Replaces the split of the schema."""
    order: Literal["time", "shuffled"] = "time"
    """Order of training samples: by time, or shuffled again in each epoch."""
    prefetch: int = Field(default=4, ge=1, le=64)
    """Number of batches that the reader thread prepares ahead."""
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _both_files(self) -> "DataConfig":
        if self.train_files and not self.test_files:
            raise ValueError(
                "data.train_files requires test files. Name them with --data.test-files, or leave both out."
            )
        return self
