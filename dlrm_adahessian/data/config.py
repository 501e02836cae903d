"""Settings of the data: which it is, where it lies, how its vocabulary is cut, how it is read. Imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dlrm_adahessian.runtime.settings import settings

DatasetName = Literal["criteo", "criteo_1tb", "criteo_x1", "criteo_x4", "avazu", "synthetic"]
"""Those that are read have a schema of that name in presets/schemas, but for criteo, whose columns are code."""
GENERATED: tuple[DatasetName, ...] = ("synthetic",)
"""Those that are made up: they read no `--data-path`."""
BadRows = Literal["strict", "quarantine"]
"""What becomes of a bad line: it stops the reading, or it is put aside and counted."""
MOVES_NOTHING = ("cache_dir", "prefetch", "max_rejected")
"""Settings of `DataConfig` that change neither rows nor results."""


@settings
class SyntheticConfig:
    """The planted click model and the marginals of generated rows."""

    seed: int = Field(default=0, ge=0)
    """Seed of the planted model and of the rows; not the training seed."""
    cardinality_scale: float = Field(default=0.02, gt=0, le=1)
    """Published number of distinct tokens of each feature times this, at least 3."""


@settings
class DataConfig:
    """Preparation and reading of rows."""

    cache_dir: Path = Path("data/cache")
    """Prepared rows and finished baselines, each in a folder named by its fingerprint."""
    min_count: int = Field(default=10, ge=1)
    """Tokens seen fewer times than this in the training part share the row of unseen tokens."""
    max_rejected: float = Field(default=0.01, ge=0, le=1)
    """Largest share of the lines that may be bad where bad lines are put aside; fewer than 100 always may."""
    train_rows: Annotated[int, Field(ge=1)] | None = None
    """Train on the last N training rows only; the vocabulary is that of all."""
    train_files: tuple[str, ...] = ()
    """Of a folder, names or patterns of the files that train, such as 'day_[0-5]*'; default: all that do not test. Other
    files are not read."""
    test_files: tuple[str, ...] = ()
    """Of a folder, names or patterns of the files that test, whose last half validates; they replace the schema's split."""
    order: Literal["time", "shuffled"] = "time"
    """Order of training rows: as they happened, or shuffled by the seed anew in each epoch."""
    prefetch: int = Field(default=4, ge=1, le=64)
    """Batches that the reader thread keeps ready."""
    synthetic: SyntheticConfig = SyntheticConfig()

    @model_validator(mode="after")
    def _both_files(self) -> "DataConfig":
        if self.train_files and not self.test_files:
            raise ValueError(
                "data.train_files needs files to test on; name them with --data.test-files, or leave both out"
            )
        return self
