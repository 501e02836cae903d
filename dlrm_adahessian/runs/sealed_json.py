"""JSON files that end with a fingerprint of their content, so that readers detect every change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm_adahessian.runs.sealed import MAX_JSON, DamagedFolderError, fingerprint, read_json, write_json

_KEY = "fingerprint"


def write_sealed_json(path: Path, said: Mapping[str, object]) -> None:
    """Atomically replace a file.

    Args:
        path: the file.
        said: JSON values by key; numbers must be finite, and the key `fingerprint` is reserved.
    """
    write_json(path, {**said, _KEY: fingerprint(said)})


def read_sealed_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """Read a file that `write_sealed_json` wrote.

    Args:
        path: the file.
        most: maximum size in bytes.

    Returns:
        The values.

    Raises:
        DamagedFolderError: the file is missing, unreadable, too large, or changed since it was written.
    """
    found = read_json(path, most)
    if not isinstance(found, dict) or found.pop(_KEY, None) != fingerprint(found):
        raise DamagedFolderError(f"{path} changed since it was written")
    return found
