"""What it costs that rows are known by their content: preparing a text with its hashes, over preparing it without.

    python -m benchmarks.identity FILE [--turns N] [--json]

FILE is Criteo's text. Both are done in turn in one process, each into an empty cache, after a preparation that compiles the
kernels; medians of the times, and of the ratios of the two in each turn. Other processes disturb the time of the processor
less than the time that passes.
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
    """Takes bytes as a hash does, and computes nothing."""

    def update(self, data: bytes) -> None:
        pass

    def hexdigest(self) -> str:
        return ""


@contextmanager
def without_hashes() -> Generator[None]:
    """Take all files of a size for the same."""
    with (
        mock.patch.object(sources.xxhash, "xxh3_128", _NoHash),
        mock.patch.multiple(sources, file_digest=lambda path: "", remembered_digest=lambda path, cache: ""),
    ):
        yield


def compare(path: str, turns: int, folder: Path) -> dict[str, float]:
    """Prepare a text in turn with its hashes and without; return medians of seconds and of ratios."""
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
    parser.add_argument("file", help="Criteo's text, plain or compressed")
    parser.add_argument("--turns", type=int, default=9, help="preparations of each kind")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
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
