"""Measure the cost of preparing a sample against the number of samples, with tables as large as Criteo Kaggle's.

    python -m benchmarks.prepare_scaling [--rows N ...] [--json]

The text for the largest size is generated once, and each size uses its first samples. Each is prepared in a separate
process, after a small preparation that compiles the kernels.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.prepare import measure, write_text
from benchmarks.support.printing import print_rows
from dlrm_adahessian.data.config import SyntheticConfig

_MILLIONS = (1, 2, 5, 10, 20)
_WARM_UP_ROWS = 1000


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10**6 * each for each in _MILLIONS])
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--folder", type=Path, help="output folder (default: temporary folder)")
    parser.add_argument("--measure", metavar="PATH", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        for rows in (_WARM_UP_ROWS, *args.rows):
            found = measure(args.measure, args.folder / "cache", rows)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        text = Path(folder) / "train.txt"
        with text.open("wb") as file:
            write_text(file, max(args.rows), SyntheticConfig(cardinality_scale=1.0))
        found = [_apart(text, rows) for rows in args.rows]
    print_rows(found, as_json=args.json)


def _apart(text: Path, rows: int) -> dict[str, float]:
    """Prepare the first samples of the text in another process."""
    flags = ["--folder", str(text.parent), "--measure", str(text), "--rows", str(rows)]
    command = [sys.executable, "-m", "benchmarks.prepare_scaling", *flags]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    shutil.rmtree(text.parent / "cache")
    return {**found, "microseconds_per_row": 1e6 * found["seconds"] / rows}


if __name__ == "__main__":
    main()
