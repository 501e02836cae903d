"""Schemas for generated data, and their samples in one block."""

from typing import Any

import numpy as np

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.rows import Bags, ColumnBlock
from dlrm_adahessian.data.schema import Schema, from_dict
from dlrm_adahessian.data.synthetic.any_schema import row_blocks

SCALE = 0.001  # scale of cardinalities, so that few samples contain most tokens


def schema_of(dense: int, tokens: int, bags: int, **more: Any) -> Schema:
    """Return a schema with the given numbers of columns."""
    return from_dict(
        {
            "format": "parquet",
            "label": {"column": "click"},
            "dense": [{"column": f"x{place}"} for place in range(dense)],
            "tokens": [{"column": f"c{place}"} for place in range(tokens)],
            "bags": [{"column": f"b{place}"} for place in range(bags)],
            **more,
        }
    )


# Columns of every kind: all transforms, vocabulary and buckets, cut characters, bags with and without a maximum length.
EVERY_KIND = from_dict(
    {
        "format": "parquet",
        "label": {"column": "click"},
        "weight": {"column": "w"},
        "time": {"column": "at"},
        "dense": [
            {"column": "clicks_before"},
            {"column": "score", "transform": "none"},
            {"column": "age", "transform": "standardize"},
        ],
        "tokens": [
            {"column": "site"},
            {"column": "device", "buckets": 50},
            {"column": "hour", "characters": [6, 8]},
        ],
        "bags": [
            {"column": "terms", "separator": "|"},
            {"column": "shops", "separator": ";", "max_length": 3},
        ],
    }
)


def generated(schema: Schema, rows: int, seed: int = 0, scale: float = SCALE) -> ColumnBlock:
    """Return generated samples as one block."""
    blocks = list(row_blocks(schema, SyntheticConfig(seed=seed, cardinality_scale=scale), rows))

    def joined(name: str) -> Any:
        parts = [getattr(block, name) for block in blocks]
        return None if parts[0] is None else np.concatenate(parts)

    names = ("labels", "values", "tokens", "missing", "weights", "probability")
    bags = [Bags.joined(parts) for parts in zip(*(block.bags for block in blocks), strict=True)]
    return ColumnBlock(schema=schema, bags=bags, **{name: joined(name) for name in names})
