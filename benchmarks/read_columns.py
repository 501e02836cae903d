"""Measure speed and memory of preparing data with a schema, from parquet and from CSV, in separate processes.

    python -m benchmarks.read_columns [--rows N ...] [--json]

The data has Criteo's 40 columns: a label, 13 numbers, and 26 columns of tokens as text. It is generated into one file per
format, whose first N samples are prepared. The time covers everything from a running interpreter to sealed data.
`reading_seconds` covers only reading, parsing, and hashing. A small preparation before it compiles the kernels.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.prepare import peak_rss_mib
from benchmarks.support.printing import print_rows
from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.raw import RowReader, prepare_raw
from dlrm_adahessian.data.schema import DenseColumn, Format, LabelColumn, Schema, TokenColumn
from dlrm_adahessian.data.synthetic.table import write_table
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.data.text.sources import open_sources

_WARM_UP_ROWS = 1000
_FORMATS: tuple[Format, ...] = ("parquet", "csv")


def schema_of(written: Format) -> Schema:
    """Return the 40 columns in a format."""
    return Schema(
        format=written,
        label=LabelColumn(column="label"),
        dense=tuple(DenseColumn(column=f"I{place}") for place in range(1, 14)),
        tokens=tuple(TokenColumn(column=f"C{place}") for place in range(1, 27)),
    )


def measure(path: Path, rows: int, cache: Path) -> dict[str, float]:
    """Prepare the first samples of a file in this process, then read them again. The memory is that of the first part."""
    schema = schema_of("parquet" if path.suffix == ".parquet" else "csv")
    began, cpu = time.perf_counter(), time.process_time()
    prepare_raw("table", schema, str(path), DataConfig(cache_dir=cache), rows=rows, bad_rows="strict")
    seconds, cpu, peak = time.perf_counter() - began, time.process_time() - cpu, peak_rss_mib()
    began = time.perf_counter()
    reader = RowReader(schema, BadLines())
    read = sum(
        len(block)
        for source in open_sources(str(path), schema.format)
        for block in reader.read(source, limit=rows)
    )
    return {
        "rows": read,
        "rows_per_second": rows / seconds,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "reading_seconds": time.perf_counter() - began,
        "peak_rss_mib": peak,
    }


def measure_apart(path: Path, rows: int, cache: Path) -> dict[str, float]:
    """Prepare in another process."""
    command = [sys.executable, "-m", "benchmarks.read_columns", "--rows", str(rows), "--folder", str(cache)]
    found = subprocess.run([*command, "--measure", str(path)], check=True, stdout=subprocess.PIPE)
    return json.loads(found.stdout)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[200_000, 500_000, 1_500_000], help="samples to prepare"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--folder", type=Path, help="output folder (default: temporary folder)")
    parser.add_argument("--measure", type=Path, metavar="PATH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.rows[0], args.folder)))
        return
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for written in _FORMATS:
            path = Path(folder) / f"rows.{written}"
            write_table(schema_of(written), SyntheticConfig(), max(args.rows), path)
            measure_apart(path, _WARM_UP_ROWS, Path(folder) / written)
            for rows in args.rows:
                load = os.getloadavg()[0]
                measured = measure_apart(path, rows, Path(folder) / written)
                cpus = len(os.sched_getaffinity(0))
                found.append({"format": written, **measured, "cpus": cpus, "load_before": load})
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
