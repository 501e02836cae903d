"""Store embedding rows in fewer bytes, with bounds on the error of an entry.

- fp32 keeps the rows unchanged.
- bf16 rounds an entry x to the nearest number with 8 significant bits, ties to even. The error is at most 2^-8 |x|.
- int8 spreads 256 codes evenly over the range of a row, and rounds to the nearest code, ties to even. An entry is code x
  scale + offset in float32. The error is at most (max - min) / 510 + 2^-21 max |x| over its row: half a step, plus the
  float32 rounding of scale, offset, product, and sum, which is less than 8 units of 2^-24 of the largest entry.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

RowType = Literal["fp32", "bf16", "int8"]
_BLOCK = 1 << 17  # embedding rows converted to float64 at once
_CODES = 256


def rounded(rows: Tensor, kind: RowType) -> dict[str, Tensor]:
    """Return the stored form of a table.

    Args:
        rows: (R, D) float32, finite.
        kind: type of the stored entries; fp32 returns `rows` itself.

    Returns:
        `weight` (R, D); for int8 also `scale` and `offset`, (R,) float32.
    """
    if kind == "fp32":
        return {"weight": rows}
    if kind == "bf16":
        return {"weight": rows.bfloat16()}
    found = {
        "weight": torch.empty(rows.shape, dtype=torch.int8),
        "scale": torch.empty(len(rows)),
        "offset": torch.empty(len(rows)),
    }
    for first in range(0, len(rows), _BLOCK):
        block = slice(first, first + _BLOCK)
        for name, part in zip(found, _coded(rows[block].double()), strict=True):
            found[name][block] = part
    return found


def unrounded(stored: Mapping[str, Tensor]) -> Tensor:
    """Return the embedding rows (R, D) float32 of a table from `rounded`."""
    rows = stored["weight"].float()
    return rows * stored["scale"].unsqueeze(1) + stored["offset"].unsqueeze(1) if "scale" in stored else rows


def largest_error(rows: Tensor, kind: RowType) -> float:
    """Return the largest error bound of this module over the entries of (R, D) `rows`."""
    low, high = (part.double() for part in rows.aminmax(dim=1))
    largest = torch.maximum(low.abs(), high.abs())
    bounds = {"fp32": 0 * largest, "bf16": 2**-8 * largest, "int8": (high - low) / 510 + 2**-21 * largest}
    return float(bounds[kind].max())


def _coded(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (R, D), scale (R,), and offset (R,) of float64 rows. A row of equal entries has scale 0."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    scale = ((high - low) / (_CODES - 1)).float()
    offset = (low + _CODES / 2 * scale).float()
    # Use the stored scale and offset, to compensate for their own rounding.
    codes = (rows - offset) / torch.where(scale > 0, scale, 1).double()
    return codes.round().clamp(-_CODES / 2, _CODES / 2 - 1), scale.squeeze(1), offset.squeeze(1)
