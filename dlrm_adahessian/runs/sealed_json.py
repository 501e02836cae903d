"""A JSON file that ends with a fingerprint of what it says, so that a reader sees every change."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlrm_adahessian.runs.sealed import MAX_JSON, DamagedFolderError, fingerprint, read_json, write_json

_KEY = "fingerprint"


def write_sealed_json(path: Path, said: Mapping[str, object]) -> None:
    """Replace a file atomically.

    Args:
        path: the file.
        said: JSON values by name, numbers finite, none of the name `fingerprint`.
    """
    write_json(path, {**said, _KEY: fingerprint(said)})


def read_sealed_json(path: Path, most: int = MAX_JSON) -> dict[str, Any]:
    """Read what `write_sealed_json` wrote.

    Args:
        path: the file.
        most: bytes that a file of its kind may have.

    Returns:
        What it says.

    Raises:
        DamagedFolderError: it is missing, unreadable, too large, or changed since it was written.
    """
    found = read_json(path, most)
    if not isinstance(found, dict) or found.pop(_KEY, None) != fingerprint(found):
        raise DamagedFolderError(f"{path} changed since it was written")
    return found
