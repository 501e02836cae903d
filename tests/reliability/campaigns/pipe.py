"""Send generated lines through a pipe to `prepare`: its memory must grow with the vocabulary, not with the lines."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import ROOT
from tests.reliability.watch import looks, resident, thinned

_LIMIT = 1 << 30  # bytes
_NOISE = 16 << 20  # bytes
_WATCH = 1.0  # seconds
_SLOT = 8  # bytes per token in a hash table, which is at least half full (data/prepared/vocabulary.py)


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Send lines through the pipe."""
    tried = "lines through a pipe into prepare, at most 1 GiB resident"
    with counting(9, tried) as (outcome, show):
        outcome.times = times
        samples: list[tuple[float, int, int]] = []
        made = _prepare(times, folder, samples)
        peak = max((memory for _, _, memory in samples), default=0)
        outcome.figures = {
            "peak_mib": round(peak / 2**20),
            "vocabulary_mib": round(made["table_rows"] * 2 * _SLOT / 2**20),
            "growth_mib": round(_growth(samples, times) / 2**20),
            "samples": [(round(second, 1), rows, memory >> 20) for second, rows, memory in thinned(samples)],
        }
        if made["rows_kept"] != times or made["rows_rejected"]:
            outcome.miss(f"{times} lines, but {made['rows_kept']} kept and {made['rows_rejected']} rejected")
        if peak > _LIMIT:
            outcome.lose(f"{peak >> 20} MiB resident")
        if _growth(samples, times) > made["table_rows"] * 2 * _SLOT + _NOISE:
            outcome.lose(f"memory grew by {outcome.figures['growth_mib']} MiB while lines were read")
        if not samples:
            outcome.lose("no memory sample")
        show()
    yield outcome


def _prepare(rows: int, folder: Path, samples: list[tuple[float, int, int]]) -> dict[str, int]:
    """Run `prepare`, and append (seconds, lines written, resident bytes without mapped files) every second."""
    flags = ["--data-path", "-", "--data.cache-dir", str(folder / "cache"), "--data.min-count", "2", "--json"]
    command = [sys.executable, "-m", "dlrm_adahessian", "prepare", *flags]
    written = [0]

    def feed() -> None:
        with suppress(BrokenPipeError), process.stdin:
            for block in row_blocks(SyntheticConfig(cardinality_scale=1.0), rows):
                process.stdin.write(format_rows(block))
                written[0] += len(block)

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        threading.Thread(target=feed, daemon=True).start()
        with suppress(psutil.NoSuchProcess):  # it ends during a sample
            for second, watched in looks(process.pid, _WATCH):
                samples.append((second, written[0], resident(watched)))
        out = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"prepare failed with exit code {process.returncode}")
    return json.loads(out)


def _growth(samples: list[tuple[float, int, int]], rows: int) -> int:
    """Return the growth of memory in bytes while lines were read, from a quarter of them to the last."""
    read = [memory for _, written, memory in samples if rows // 4 <= written < rows]
    return read[-1] - read[0] if read else 0
