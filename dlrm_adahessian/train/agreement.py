"""Check that all ranks agree, before the first step and before any folder changes.

Only paths may differ. The first rank prepares the data and chooses the run directory, and the other ranks open them.
"""

import platform
from pathlib import Path
from typing import Any

import torch
import xxhash

import dlrm_adahessian
from dlrm_adahessian.checkpoint.reader import latest
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.agreement import require_none_refused, require_same
from dlrm_adahessian.runs.run_directory import RunDirectory, packages
from dlrm_adahessian.runs.sealed import MANIFEST, file_digest
from dlrm_adahessian.runtime.device import find_device

_PACKAGE = Path(dlrm_adahessian.__file__).parent
_SHARED = "a folder that all machines see under the same path"


def require_same_start(config: RunConfig) -> None:
    """Require the same flags, settings, and program on all ranks. This is the first exchange between ranks.

    Args:
        config: settings of this rank.
    """
    require_none_refused(None)
    # Another program may have other settings, so report it first.
    require_same(program, "Install the same version of the program and of its packages on all machines.")
    require_same(lambda: config.of_all_ranks, "Start all ranks with the same flags.")


def find_same_device(config: RunConfig) -> torch.device:
    """Return the device of this rank, of the same type on all. Errors are those of `find_device` and `require_same`."""
    _, device = ranks.all_open(lambda: (None, find_device(config.device)))
    require_same(
        lambda: {"device": device.type}, "Give each rank a GPU that torch can use, or use --device cpu."
    )
    return device


def require_same_folder(run: RunDirectory) -> None:
    """Require that all ranks see the same run directory, with the same newest checkpoint.

    Args:
        run: run directory, locked by the first rank.
    """

    def seen() -> dict[str, Any]:
        newest = latest(run.checkpoints)
        return {
            "run directory": str(run.path.absolute()) if run.path.is_dir() else None,
            "checkpoint": newest and newest.name,
            "content of the checkpoint": newest and _digest(newest / MANIFEST),
        }

    require_same(seen, f"Pass {_SHARED} with --out.")


def require_same_rows(data: PreparedData) -> None:
    """Require that all ranks see the same prepared data under the same path.

    Args:
        data: prepared data as this rank sees it.
    """
    manifest = data.manifest
    require_same(
        lambda: {"prepared rows": data.fingerprint, "files": manifest["files"]},
        f"Set --data.cache-dir to {_SHARED}.",
    )


def program(package: Path = _PACKAGE) -> dict[str, Any]:
    """Return the version of each package and the digest of each source file of the program."""
    sources = {
        str(path.relative_to(package.parent)): xxhash.xxh3_64_hexdigest(path.read_bytes())
        for path in sorted(package.rglob("*.py"))
    }
    return {
        "dlrm_adahessian": dlrm_adahessian.__version__,
        "python": platform.python_version(),
        **packages(),
        **sources,
    }


def _digest(path: Path) -> str | None:
    try:
        return file_digest(path)
    except OSError:  # loading will report a damaged checkpoint
        return None
