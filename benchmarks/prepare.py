"""Measure speed and memory of preparing raw data, in a separate process.

    python -m benchmarks.prepare [--rows N] [--pipe] [--cardinality-scale S] [--json]

The generated data is read from a file, or from a pipe, which allows any number of samples without disk space. The time
covers everything from a running interpreter to sealed data: parsing, counting, encoding, hashing, and flushing to disk. A
small preparation before it compiles the kernels. With a file, this program and polars do the same work alternately, three
times each. Results are medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.synthetic.generator import row_blocks

_WARM_UP_ROWS = 1000
_TURNS = 3


def write_text(file: IO[bytes], rows: int, config: SyntheticConfig) -> int:
    """Write generated samples, and return the number of bytes."""
    return sum(file.write(format_rows(block)) for block in row_blocks(config, rows))


def measure(path: str, cache: Path, rows: int | None = None) -> dict[str, float]:
    """Prepare `path`, or its first samples, in this process."""
    began = time.perf_counter()
    data = prepare_raw("criteo", CRITEO, path, DataConfig(cache_dir=cache), rows=rows, bad_rows="strict")
    return {
        "rows": len(data.labels),
        "seconds": time.perf_counter() - began,
        "peak_rss_mib": peak_rss_mib(),
        "table_rows": sum(data.preprocessing.num_rows),
    }


def peak_rss_mib() -> float:
    """Return the peak memory of this program. getrusage would include that of the parent before exec."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def measure_apart(rows: int, config: SyntheticConfig, folder: Path, *, pipe: bool) -> dict[str, float | str]:
    """Prepare generated data in another process.

    Args:
        rows: number of samples.
        config: settings of the generator.
        folder: empty folder on the disk to measure.
        pipe: send the text through a pipe instead of a file. The generator then takes part of the time.

    Returns:
        The measurements.
    """
    if pipe:
        with subprocess.Popen(_ours("-", folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            if process.stdin is None:
                raise RuntimeError("the process has no standard input")
            size = write_text(process.stdin, rows, config)
            found = json.loads(process.communicate()[0])
        return {"input": "pipe", **_rates(found, size)}
    text = folder / "train.txt"
    with text.open("wb") as file:
        size = write_text(file, rows, config)
    turns = [_turn(text, folder / str(turn)) for turn in range(_TURNS)]
    ours = sorted((turn[0] for turn in turns), key=lambda found: found["seconds"])[_TURNS // 2]
    result: dict[str, float | str] = {"input": "file", **_rates(ours, size)}
    theirs = sorted((turn[1] for turn in turns), key=lambda found: found["seconds"])[_TURNS // 2]
    result["polars_rows_per_second"] = theirs["rows"] / theirs["seconds"]
    result["polars_peak_rss_mib"] = theirs["peak_rss_mib"]
    result["faster_than_polars"] = statistics.median(b["seconds"] / a["seconds"] for a, b in turns)
    return result


def _turn(text: Path, folder: Path) -> list[dict[str, float]]:
    """Prepare the same file with this program and with polars."""
    polars = [sys.executable, "-m", "benchmarks.support.polars_prepare", str(text), str(folder / "polars")]
    commands = (_ours(str(text), folder), polars)
    outputs = [subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout for command in commands]
    shutil.rmtree(folder)
    return [json.loads(output) for output in outputs]


def _ours(path: str, folder: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.prepare", "--measure", path, "--folder", str(folder / "cache")]


def _rates(found: dict[str, float], size: int) -> dict[str, float]:
    return {
        **found,
        "megabytes": size / 1e6,
        "megabytes_per_second": size / 1e6 / found["seconds"],
        "rows_per_second": found["rows"] / found["seconds"],
        "cpus": len(os.sched_getaffinity(0)),
    }


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000, help="generated samples")
    parser.add_argument("--pipe", action="store_true", help="read from standard input")
    parser.add_argument(
        "--cardinality-scale", type=float, default=0.02, help="factor for the published cardinalities"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--folder", type=Path, help="output folder (default: temporary folder)")
    parser.add_argument("--measure", metavar="PATH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.folder)))
        return
    config = SyntheticConfig(cardinality_scale=args.cardinality_scale)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for part, rows in (("warm", _WARM_UP_ROWS), ("measured", args.rows)):
            (Path(folder) / part).mkdir()
            found = measure_apart(rows, config, Path(folder) / part, pipe=args.pipe)
    if args.json:
        print(json.dumps([found]))
        return
    for name, value in found.items():
        print(f"{name:<24}{value if isinstance(value, str) else f'{value:,.1f}'}")


if __name__ == "__main__":
    main()
