"""Embedding rows in fewer bytes, and how far an entry may then be off.

- fp32 keeps the rows.
- bf16 rounds an entry x to the nearest number of 8 significant bits, ties to even: off by at most 2^-8 |x|.
- int8 spreads 256 codes evenly over the range of a row, and rounds to the nearest, ties to even. An entry is code x scale +
  offset in float32, off by at most (max - min) / 510 + 2^-21 max |x| over its row: half a step, and what float32 rounds of
  scale, offset, product and sum, which is less than 8 units of 2^-24 of the largest entry.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

RowType = Literal["fp32", "bf16", "int8"]
_BLOCK = 1 << 17  # rows that are in float64 at a time
_CODES = 256


def rounded(rows: Tensor, kind: RowType) -> dict[str, Tensor]:
    """Return a table as it is stored.

    Args:
        rows: (R, D) float32, finite.
        kind: fp32 returns `rows` itself.

    Returns:
        `weight` (R, D); of int8 `scale` and `offset` too, (R,) float32.
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
    """Return the rows (R, D) float32 that a table of `rounded` stands for."""
    rows = stored["weight"].float()
    return rows * stored["scale"].unsqueeze(1) + stored["offset"].unsqueeze(1) if "scale" in stored else rows


def largest_error(rows: Tensor, kind: RowType) -> float:
    """Return the bound of this module on how far an entry of (R, D) `rows` is off, the largest over the rows."""
    low, high = (part.double() for part in rows.aminmax(dim=1))
    largest = torch.maximum(low.abs(), high.abs())
    bounds = {"fp32": 0 * largest, "bf16": 2**-8 * largest, "int8": (high - low) / 510 + 2**-21 * largest}
    return float(bounds[kind].max())


def _coded(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (R, D), scale (R,) and offset (R,) of float64 rows; a row of equal entries has scale 0."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    scale = ((high - low) / (_CODES - 1)).float()
    offset = (low + _CODES / 2 * scale).float()
    # Of the scale and offset that are stored, so that their own rounding is made up for.
    codes = (rows - offset) / torch.where(scale > 0, scale, 1).double()
    return codes.round().clamp(-_CODES / 2, _CODES / 2 - 1), scale.squeeze(1), offset.squeeze(1)
