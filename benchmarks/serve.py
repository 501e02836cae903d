"""Measure requests to examples/serve.py over loopback: samples per second, and milliseconds until the answer.

    python -m benchmarks.serve --model EXPORT [--requests N] [--json]

A separate process serves an exported folder with Criteo's columns. Requests with generated samples are sent one after
another, each over a new connection. After each one, the loader predicts the same samples in this process.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.printing import print_rows
from benchmarks.support.timing import seconds
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.synthetic.generator import write_tsv
from dlrm_adahessian.serving import loader

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "serve.py"
NAMES = [*CRITEO.dense_names, *CRITEO.features]


def measure(folder: Path, requests: int) -> list[dict[str, Any]]:
    """Return the measurements for each path and number of samples."""
    model = loader.load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        write_tsv(SyntheticConfig(), 1000, Path(scratch) / "rows.txt")
        lines = (Path(scratch) / "rows.txt").read_bytes().splitlines(keepends=True)
    rows = [dict(zip(NAMES, _values(line), strict=True)) for line in lines]
    command = [sys.executable, str(EXAMPLE), "--model", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = int(next(iter(process.stdout or "")).rpartition(":")[2])
        found = [
            _timed(port, path, body, count, requests, alone)
            for count in (1, 1000)
            for path, body, alone in (
                ("/predict", json.dumps(rows[:count]).encode(), lambda n=count: model.predict(rows[:n])),
                ("/batch", b"".join(lines[:count]), lambda n=count: list(model.predict_lines(lines[:n]))),
            )
        ]
        process.terminate()
    return found


def _values(line: bytes) -> list[int | str | None]:
    fields = line.decode().rstrip("\n").split("\t")[1:]
    return [(int(field) if place < 13 else field) if field else None for place, field in enumerate(fields)]


def _timed(
    port: int, path: str, body: bytes, rows: int, requests: int, alone: Callable[[], object]
) -> dict[str, Any]:
    def request() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("POST", path, body)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {said!r}")

    taken = np.array([(seconds(request), seconds(alone)) for _ in range(requests + 10)])[10:]
    served, own = taken.T
    return {
        "path": path,
        "rows_of_a_request": rows,
        "requests": requests,
        "rows_per_second": rows / statistics.median(served),
        "loader_rows_per_second": rows / statistics.median(own),
        "over_loader": statistics.median(own / served),
        "p50_ms": 1000 * float(np.quantile(served, 0.5)),
        "p99_ms": 1000 * float(np.quantile(served, 0.99)),
        "loader_p50_ms": 1000 * float(np.quantile(own, 0.5)),
        "loader_p99_ms": 1000 * float(np.quantile(own, 0.99)),
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="exported folder")
    parser.add_argument(
        "--requests", type=int, default=300, help="timed requests of each kind, after 10 untimed ones"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    print_rows(measure(args.model, args.requests), as_json=args.json)


if __name__ == "__main__":
    main()
