"""Cache the digests of large files next to the prepared data, so that an unchanged file is hashed only once.

A file counts as unchanged while its path, inode, size, and times are the same as when it was hashed. The kernel sets the
inode change time (ctime), so an edit that resets the modification time is detected too.
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
"""Name of the file in the cache folder that stores the digests."""
_SETTLED = 2_000_000_000  # ns; file system clocks are coarse: two changes within this time may have the same timestamp

logger = logging.getLogger(__name__)


def remembered_digest(path: Path, cache_dir: Path) -> str:
    """Return the digest of a file. Read the file only if it is new or may have changed.

    Args:
        path: the file; raises `OSError` if it cannot be read.
        cache_dir: folder that stores the digests; created if missing.

    Returns:
        xxh3_128 of the file, 32 hexadecimal digits.
    """
    name, found = str(path.absolute()), path.stat()
    known = _known(cache_dir)
    entry = known.get(name)
    if isinstance(entry, dict) and entry.keys() == {"seen", "xxh3_128"} and entry["seen"] == _seen(found):
        return entry["xxh3_128"]
    logger.info("hashing %s to identify it, %.1f GB", path, found.st_size / 1e9)
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
    except DamagedFolderError:  # missing or damaged: the files are hashed again
        return {}
    return known if isinstance(known, dict) else {}


def _seen(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
