"""Measure the cost of identifying data by content: preparation with hashes over preparation without.

    python -m benchmarks.identity FILE [--turns N] [--json]

FILE is Criteo text. Both variants take turns in one process, each with an empty cache, after a preparation that compiles the
kernels. Results are medians of the times, and of the ratios within each turn. The CPU time is less sensitive to other
processes than the elapsed time.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

from benchmarks.prepare import measure
from dlrm_adahessian.data.text import sources


class _NoHash:
    """Accept bytes like a hash, but compute nothing."""

    def update(self, data: bytes) -> None:
        pass

    def hexdigest(self) -> str:
        return ""


@contextmanager
def without_hashes() -> Generator[None]:
    """Treat all files of equal size as identical."""
    with (
        mock.patch.object(sources.xxhash, "xxh3_128", _NoHash),
        mock.patch.multiple(sources, file_digest=lambda path: "", remembered_digest=lambda path, cache: ""),
    ):
        yield


def compare(path: str, turns: int, folder: Path) -> dict[str, float]:
    """Prepare a text alternately with and without hashes. Return medians of seconds and ratios."""
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    processor: dict[str, list[float]] = {"with": [], "without": []}
    measure(path, folder / "warm", rows=1000)
    for turn in range(turns):
        for kind in ("with", "without") if turn % 2 else ("without", "with"):
            cache = folder / f"{kind}-{turn}"
            before = time.process_time()
            with nullcontext() if kind == "with" else without_hashes():
                seconds[kind].append(measure(path, cache)["seconds"])
            processor[kind].append(time.process_time() - before)
            shutil.rmtree(cache)
    found: dict[str, float] = {"megabytes": Path(path).stat().st_size / 1e6, "turns": turns}
    for name, times in (("seconds", seconds), ("processor_seconds", processor)):
        for kind, of_kind in times.items():
            found[f"{name}_{kind}"] = statistics.median(of_kind)
        found[f"{name}_ratio"] = statistics.median(
            ours / plain for ours, plain in zip(times["with"], times["without"], strict=True)
        )
    return found


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", help="Criteo text, plain or compressed")
    parser.add_argument("--turns", type=int, default=9, help="preparations of each kind")
    parser.add_argument("--folder", type=Path, help="output folder (default: temporary folder)")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = compare(args.file, args.turns, Path(folder))
    if args.json:
        print(json.dumps([found]))
        return
    for name, value in found.items():
        print(f"{name:<28}{value:,.3f}")


if __name__ == "__main__":
    main()
