"""How the tables are spread over the ranks. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.settings import settings

Sharding = Literal["auto", "table", "row", "column", "replicate"]
"""`table` keeps a table whole on one rank, `row` and `column` cut it, `replicate` keeps a copy on every rank."""

ExchangePrecision = Literal["fp32", "bf16"]
"""Of pooled embeddings and their derivatives on their way between ranks; over gloo embeddings travel as float16."""


@settings
class DistributedConfig:
    """What the planner may do with the tables; results do not depend on it but for the order of sums."""

    sharding: Sharding = "auto"
    """Of all tables; auto leaves each to TorchRec's planner."""
    tables: dict[str, Sharding] = Field(default_factory=dict)
    """Of single tables, e.g. C3 row C9 replicate; wins over `sharding`."""
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory of a rank that the plan must fit into; default: the GPU's, or the rank's share of the machine's."""

    def sharding_of(self, table: str) -> Sharding:
        """Return how a table is spread."""
        return self.tables.get(table, self.sharding)

    def require_tables(self, names: Sequence[str]) -> None:
        """Refuse settings of tables that are not there.

        Args:
            names: of the model's tables; there may be none.

        Raises:
            UsageError: a name in `tables` is not one of these.
        """
        unknown = ", ".join(name for name in self.tables if name not in names)
        if unknown and not names:
            raise UsageError(
                f"distributed.tables names tables, and this model has none, got {unknown}; leave it out"
            )
        if unknown:
            raise UsageError(
                f"distributed.tables names tables, which are {', '.join(names)}, got {unknown}; name one of these"
            )

    @property
    def memory_bytes(self) -> int | None:
        """Memory of a rank in bytes; None where it is to be found out."""
        return None if self.memory_gib is None else int(self.memory_gib * 2**30)


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One embedding table, read by the feature of the same name.

    Attributes:
        name: of the table and the feature.
        num_rows: R, at least 1.
        dim: D, the same for all tables.
        sharding: how it is spread over the ranks; "auto" lets the planner choose.
        values_per_bag: rows that a sample looks up, on average, at least 0.
        initial_bound: b, initial values being uniform in [-b, b]; None for 1 / sqrt(R).
    """

    name: str
    num_rows: int
    dim: int
    sharding: Sharding = "auto"
    values_per_bag: float = 1.0
    initial_bound: float | None = None
