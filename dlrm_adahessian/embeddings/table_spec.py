"""What is asked of one embedding table."""

from dataclasses import dataclass

from dlrm_adahessian.embeddings.config import Sharding


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """One embedding table, read by the feature of the same name.

    Attributes:
        name: of the table and the feature.
        num_rows: R, at least 1.
        dim: D, the same for all tables.
        sharding: how it is spread over the ranks; "auto" lets the planner choose.
    """

    name: str
    num_rows: int
    dim: int
    sharding: Sharding = "auto"
