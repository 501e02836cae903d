"""Digests of large files, kept beside the prepared rows, so that a file that stays as it is is read once.

A file is taken for unchanged while its path, inode, size and times are as they were when it was hashed. The system sets the
time of the last change of the inode (ctime) itself: an edit that sets back the time of modification is noticed too.
"""

import logging
import os
import time
from pathlib import Path
from typing import Any

from dlrm_adahessian.runs.sealed import (
    DamagedFolderError,
    file_digest,
    read_json,
    storage_errors,
    write_json,
)

REMEMBERED = "digests.json"
"""The file of the cache that keeps them."""
_SETTLED = 2_000_000_000  # ns; clocks of file systems are coarse, so a newer change may be followed by one of the same time

logger = logging.getLogger(__name__)


def remembered_digest(path: Path, cache_dir: Path) -> str:
    """Return the digest of a file, and read the file only where it is new or may have changed.

    Args:
        path: the file; `OSError` when it can't be read.
        cache_dir: keeps the digests; made when it is absent.

    Returns:
        Its xxh3_128, 32 hexadecimal digits.
    """
    name, found = str(path.absolute()), path.stat()
    known = _known(cache_dir)
    entry = known.get(name)
    if isinstance(entry, dict) and entry.keys() == {"seen", "xxh3_128"} and entry["seen"] == _seen(found):
        return entry["xxh3_128"]
    logger.info("reading %s once to identify it, %.1f GB", path, found.st_size / 1e9)
    settled = time.time_ns() - found.st_ctime_ns > _SETTLED
    digest = file_digest(path)
    if settled and _seen(path.stat()) == _seen(found):
        with storage_errors(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
        write_json(cache_dir / REMEMBERED, {**known, name: {"seen": _seen(found), "xxh3_128": digest}})
    return digest


def _known(cache_dir: Path) -> dict[str, Any]:
    try:
        known = read_json(cache_dir / REMEMBERED)
    except DamagedFolderError:  # absent, or spoilt: what it said is found again by reading
        return {}
    return known if isinstance(known, dict) else {}


def _seen(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
