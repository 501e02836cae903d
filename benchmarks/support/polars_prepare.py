"""Do the work of `prepare` in polars, for comparison, in a separate process.

The steps are streaming parse, logarithm of the integers, hexadecimal tokens to 32-bit numbers, a vocabulary of the training
part by descending frequency with a minimum count, encoding, and planar .npy files. Unlike `prepare`, this version keeps all
samples in memory, does not validate lines, and computes no hashes.

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
    """Prepare the samples of a Criteo text, and return their number."""
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
    """Print samples, seconds, and peak memory as JSON."""
    text, folder = map(Path, sys.argv[1:])
    began = time.perf_counter()
    rows = prepare_polars(text, folder)
    seconds = time.perf_counter() - began
    found = {"rows": rows, "seconds": seconds, "peak_rss_mib": peak_rss_mib()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
