"""Measure memory and time of an export at the size of Criteo Kaggle: 33.76 million embedding rows of width 16.

    python -m benchmarks.serving_memory [--scale SHARE] [--tables KIND] [--json]

An untrained model with hybrid is saved as a run, and exported by the command. Its allocated memory is sampled every 50 ms,
and reported as peak over the bytes of the float32 tables. The peak of resident memory is reported too. It includes the
pages of written tables that the loader maps, which the operating system may reclaim.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.printing import print_rows
from dlrm_adahessian.config import RunConfig, asdict, from_dict
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.planning.what_if import table_sizes
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import sealed_folder
from dlrm_adahessian.train.state import TrainState

_ROWS = "generated"  # instead of a fingerprint of prepared data
_SPREAD = 0x9E3779B1  # odd, so that its multiples are distinct modulo 2**32


def write_run(path: Path, heights: list[int]) -> RunConfig:
    """Save a run directory with tables of these sizes and one checkpoint, and return its settings."""
    config = from_dict({**optimizer_preset("hybrid"), "optimizer": "hybrid"})
    vocabulary = Vocabulary(
        tokens=np.concatenate(
            [np.arange(1, height, dtype=np.uint32) * np.uint32(_SPREAD) for height in heights]
        ),
        offsets=np.cumsum([0, *(height - 1 for height in heights)], dtype=np.int64),
        missing=np.zeros(len(heights), np.int32),
    )
    run = RunDirectory(path)
    path.mkdir()
    run.write_config({**asdict(config), "prepared": {"fingerprint": _ROWS}})
    manifest: dict[str, Any] = {"fingerprint": _ROWS}
    with sealed_folder(run.vocabulary, manifest) as folder:
        manifest.update(Preprocessing(CRITEO, vocabulary, NO_SCALES).save(folder))
    with init_process_group():
        state = TrainState(config, CRITEO, heights, torch.device("cpu"))
        state.save(run.checkpoints, 1, {}, config.fingerprint(_ROWS))
    return config


def measure(scale: float, kind: str, folder: Path) -> dict[str, Any]:
    """Return the measurements of one export."""
    heights = [max(3, int(scale * rows)) for rows in table_sizes("kaggle").rows]
    config = write_run(folder / "run", heights)
    command = ["export", "--run", str(folder / "run"), "--out", str(folder / "out"), "--tables", kind]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dlrm_adahessian", *command], stdout=subprocess.DEVNULL)
    allocated = 0
    while process.poll() is None:
        allocated = max(allocated, _allocated(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"the export failed with exit code {process.returncode}")
    seconds = time.perf_counter() - began
    table_bytes = 4 * sum(heights) * config.model.embedding_dim
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    return {
        "tables": kind,
        "rows": sum(heights),
        "table_bytes": table_bytes,
        "folder_bytes": sum(path.stat().st_size for path in (folder / "out").iterdir()),
        "seconds": seconds,
        "allocated_over_tables": allocated / table_bytes,
        "resident_over_tables": peak / table_bytes,
    }


def _allocated(process: int) -> int:
    """Return the resident bytes that belong to no file; 0 if the process has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines() if line.startswith("RssAnon")]
    return int(found[0]) << 10 if found else 0


def main() -> None:
    """Print the measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the published table sizes")
    parser.add_argument("--tables", choices=["fp32", "bf16", "int8"], default="fp32")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.scale, args.tables, Path(folder))
    print_rows([found], as_json=args.json)


if __name__ == "__main__":
    main()
