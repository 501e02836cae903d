"""The job of `prepare` written in polars: a peer to measure against, in a process of its own.

Streaming parse, logarithm of the integers, hex tokens to 32-bit numbers, a vocabulary of the training part by falling
frequency with a minimum count, encode, write planar .npy files. Unlike ours it holds all rows in memory, checks no line and
hashes nothing.

    python -m benchmarks.support.polars_prepare TEXT FOLDER
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.prepare import peak_rss_mib

_INTEGERS = [f"I{i}" for i in range(1, 14)]
_TOKENS = [f"C{i}" for i in range(1, 27)]
_MIN_COUNT = 10


def prepare_polars(text: Path, folder: Path) -> int:
    """Prepare the rows of a Criteo text; return how many there are."""
    schema = pl.Schema(
        {"label": pl.Int8} | dict.fromkeys(_INTEGERS, pl.Int64) | dict.fromkeys(_TOKENS, pl.String)
    )
    logs = [pl.col(c).fill_null(0).clip(0).cast(pl.Float64).log1p().cast(pl.Float32) for c in _INTEGERS]
    numbers = [pl.col(c).str.to_integer(base=16, dtype=pl.UInt32) for c in _TOKENS]
    scan = pl.scan_csv(text, separator="\t", has_header=False, schema=schema)
    frame = scan.select("label", *logs, *numbers).collect(engine="streaming")
    training = frame.head(len(frame) * 6 // 7)
    ids = np.zeros((len(frame), len(_TOKENS)), np.int32)
    for place, name in enumerate(_TOKENS):
        counts = training[name].drop_nulls().value_counts(sort=True).filter(pl.col("count") >= _MIN_COUNT)
        known = counts.select(name).with_row_index("id", offset=2)
        found = frame.select(name).join(known, on=name, how="left", maintain_order="left")["id"]
        ids[:, place] = found.fill_null(0).to_numpy()
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", frame["label"].to_numpy())
    np.save(folder / "dense.npy", frame.select(_INTEGERS).to_numpy())
    np.save(folder / "ids.npy", ids)
    return len(frame)


def main() -> None:
    """Print rows, seconds and peak memory as JSON."""
    text, folder = map(Path, sys.argv[1:])
    began = time.perf_counter()
    rows = prepare_polars(text, folder)
    seconds = time.perf_counter() - began
    found = {"rows": rows, "seconds": seconds, "peak_rss_mib": peak_rss_mib()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
