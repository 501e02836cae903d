"""Settings that control how tables are sharded across ranks. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.settings import settings

Sharding = Literal["auto", "table", "row", "column", "replicate"]
"""`table` keeps a table whole on one rank, `row` and `column` split it, `replicate` puts a copy on every rank."""

ExchangePrecision = Literal["fp32", "bf16"]
"""Type in which ranks send pooled embeddings and their derivatives. With bf16, gloo sends embeddings as float16."""


@settings
class DistributedConfig:
    """Placement of tables on ranks; affects results only through the order of sums."""

    sharding: Sharding = "auto"
    """Sharding of all tables; auto lets TorchRec's planner choose for each."""
    tables: dict[str, Sharding] = Field(default_factory=dict)
    """Sharding of single tables, e.g. C3 row C9 replicate; overrides `sharding`."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory per rank (GiB) for the plan; default: the GPU's, or an equal share of the host's."""

    def sharding_of(self, table: str) -> Sharding:
        """Return the sharding of a table."""
        return self.tables.get(table, self.sharding)

    def require_tables(self, names: Sequence[str]) -> None:
        """Check that every table named in `tables` exists.

        Args:
            names: names of the model's tables; may be empty.

        Raises:
            UsageError: `tables` names a table that the model does not have.
        """
        unknown = ", ".join(name for name in self.tables if name not in names)
        if unknown and not names:
            raise UsageError(
                f"distributed.tables names {unknown}, but this model has no embedding tables. Remove distributed.tables."
            )
        if unknown:
            raise UsageError(
                f"Unknown table in distributed.tables: {unknown}. The tables are {', '.join(names)}."
            )

    @property
    def memory_bytes(self) -> int | None:
        """Memory per rank in bytes; None to detect it."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """Describe one embedding table. The feature of the same name reads it.

    Attributes:
        name: name of the table and of the feature.
        num_rows: R, at least 1.
        dim: D, the same for all tables.
        sharding: how to shard it across ranks; "auto" lets the planner choose.
        values_per_bag: mean number of rows that a sample looks up, at least 0.
        initial_bound: b for initial values uniform in [-b, b]; None for 1 / sqrt(R).
    """

    name: str
    num_rows: int
    dim: int
    sharding: Sharding = "auto"
    values_per_bag: float = 1.0
    initial_bound: float | None = None
