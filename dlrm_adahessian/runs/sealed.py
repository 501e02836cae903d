"""Crash-safe files: sealed folders, atomic JSON, and locks.

A sealed folder is complete or absent. It is written under a temporary name, gets a `manifest.json` with the size and
xxh3_128 of each file, is flushed to disk, and then renamed. File formats alone do not detect a flipped bit, so every reader
verifies the manifest first.
"""

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from dlrm_adahessian.errors import LockedError, StorageError
from dlrm_adahessian.runs.files import (
    flush_folder,
    flush_to_disk,
    lock_file,
    replacing,
    take_lock,
    temporary_name,
    why_not_writable,
)

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
HASH_BLOCK = 1 << 22  # bytes
MAX_JSON = 64 << 20  # bytes, far more than this program ever writes as JSON
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space, or choose a folder on another disk."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to."),
    errno.EIO: "Check the system log for disk errors, and choose a folder on another disk.",
}

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of network disks without them


class DamagedFolderError(Exception):
    """A sealed folder does not match its manifest. The message has no final period, and callers add the consequence."""


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn an `OSError` in the block into a `StorageError` that names the path.

    Args:
        path: path that the block reads or writes; used if the error names no file.

    Yields:
        Nothing.

    Raises:
        StorageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "Choose another folder.")
        raise StorageError(f"Cannot read or write {error.filename or path}: {reason}. {remedy}") from error


def require_writable(folder: Path, flag: str) -> None:
    """Check that a folder can be written or created, before anything slow begins.

    Args:
        folder: folder for results.
        flag: flag that sets the folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    place = folder.absolute()
    # `Path.exists` raises below a folder without search permission; `os.access` returns False.
    existing = next(path for path in (place, *place.parents) if os.access(path, os.F_OK))
    if (why := why_not_writable(existing)) is not None:
        raise StorageError(
            f"Cannot write results to {folder}: {existing} {why}. Choose another folder with {flag}."
        )


def require_room(folder: Path, wanted: int, flag: str) -> None:
    """Check that a disk has enough space, before hours of work.

    Args:
        folder: folder for results. It may be missing.
        wanted: bytes.
        flag: flag that sets the folder.

    Raises:
        StorageError: there is too little space.
    """
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < wanted:
        raise StorageError(
            f"About {wanted / 1e9:,.2f} GB are needed in {folder}, but only {free / 1e9:,.2f} GB are free. Free space, or "
            f"choose another folder with {flag}."
        )


def require_no_links(folder: Path) -> None:
    """Check that a folder contains no links, which would redirect its results to other places.

    Args:
        folder: folder of a run or a comparison.

    Raises:
        StorageError: the folder contains links.
    """
    with storage_errors(folder):
        links = sorted(path.name for path in folder.iterdir() if path.is_symlink())
    if links:
        raise StorageError(
            f"Results are not written through links, but {folder} contains {', '.join(links)}. Replace the links by copies, "
            "or choose another folder with --out."
        )


def file_digest(path: Path) -> str:
    """Return the xxh3_128 of a file as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON-serializable value, independent of key order."""
    return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True).encode())


def write_json(path: Path, value: object) -> None:
    """Atomically replace `path` by the JSON of `value`. After a crash, it is the old or the new file."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """Return the JSON text that `write_json` writes. A number that is not finite raises a ValueError."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Atomically replace `path` by `text` in UTF-8. After a crash, it is the old or the new file."""
    with storage_errors(path), replacing(path) as file:
        file.write(text.encode())


def finite(value: object) -> object:
    """Return nested mappings and sequences with null for each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path, most: int = MAX_JSON) -> object:
    """Read a JSON file that this program wrote.

    Args:
        path: the file.
        most: maximum size in bytes.

    Returns:
        The decoded value.

    Raises:
        DamagedFolderError: the file is missing, unreadable, too large, or not JSON.
    """
    try:
        if path.stat().st_size > most:
            raise DamagedFolderError(f"{path} is too large for a file of its kind")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DamagedFolderError(f"{path} is missing") from error
    except OSError as error:
        raise DamagedFolderError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFolderError(f"{path} is not valid JSON") from error


@contextmanager
def sealed_folder(final: Path, meta: Mapping[str, object]) -> Generator[Path]:
    """Write a folder that appears under its name only when it is complete.

    Args:
        final: name of the folder. An existing one is replaced, and a kill at that moment leaves neither.
        meta: other entries of the manifest. It is read when the block ends, so it may change until then.

    Yields:
        A temporary folder next to `final` for the files.
    """
    with storage_errors(final):
        temporary = temporary_folder(final)
        try:
            yield temporary
            seal(temporary, final, meta, {})
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def temporary_folder(final: Path) -> Path:
    """Create an empty folder next to `final`, for `seal` to rename. Raises `OSError`."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(final)
    temporary.mkdir()
    return temporary


def seal(
    temporary: Path, final: Path, meta: Mapping[str, object], entries: Mapping[str, Mapping[str, int | str]]
) -> None:
    """Write the manifest of a folder, flush the folder, and rename it.

    Args:
        temporary: a folder from `temporary_folder` with all its files.
        final: its final name. An existing folder is replaced, and a kill at that moment leaves neither.
        meta: other entries of the manifest.
        entries: size and digest by name, for files that are already on disk, so that they need not be read again.

    Raises:
        FileNotFoundError: one of `entries` is not in the folder. Other `OSError` come from the disk.
    """
    files = {path.name: entries.get(path.name) or flushed_entry(path) for path in sorted(temporary.iterdir())}
    if unseen := sorted(entries.keys() - files.keys()):
        raise FileNotFoundError(
            errno.ENOENT,
            "another process wrote this file, but it is not visible here",
            str(temporary / unseen[0]),
        )
    write_json(temporary / MANIFEST, {**meta, "files": files})
    if final.exists():
        shutil.rmtree(final)
    put_in_place(temporary, final)


def put_in_place(temporary: Path, final: Path) -> None:
    """Rename a complete folder to its final name. Raises `OSError`, also if the name is a file or a nonempty folder."""
    temporary.rename(final)
    flush_folder(final.parent)


def flushed_entry(path: Path) -> dict[str, int | str]:
    """Flush a file to disk, and return its manifest entry with size and xxh3_128. Raises `OSError`."""
    with path.open("rb") as file:
        flush_to_disk(file.fileno())
    return _entry(path)


def _entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "xxh3_128": file_digest(path)}


def entry_of(content: bytes) -> dict[str, int | str]:
    """Return the manifest entry of a file with this content."""
    return {"bytes": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


def read_sealed(folder: Path) -> dict[str, Any]:
    """Verify every byte of a sealed folder.

    Args:
        folder: a folder that `sealed_folder` wrote.

    Returns:
        The manifest: `meta` and `files`.

    Raises:
        DamagedFolderError: a file is missing, unexpected, unreadable, or changed.
    """
    try:
        return _verified(folder)
    except OSError as error:
        raise DamagedFolderError(f"{error.filename or folder} cannot be read: {error.strerror}") from error


def _verified(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(files := manifest.get("files"), dict):
        raise DamagedFolderError(f"{folder / MANIFEST} lists no files")
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    if present != set(files):
        raise DamagedFolderError(
            f"{folder} contains {sorted(present)}, but its manifest lists {sorted(files)}"
        )
    for name, entry in files.items():
        verify_file(folder / name, entry)
    return manifest


def verify_file(path: Path, entry: object) -> None:
    """Check that a file matches its manifest entry.

    Args:
        path: the file.
        entry: result of `entry_of` or `flushed_entry`.

    Raises:
        DamagedFolderError: the file is missing, a link, or changed. An unreadable file raises an `OSError`.
    """
    if not path.exists():
        raise DamagedFolderError(f"{path} is missing")
    if path.is_symlink() or not path.is_file():
        raise DamagedFolderError(f"{path} is not a plain file")
    if entry != _entry(path):
        raise DamagedFolderError(f"{path} changed since it was written")


@contextmanager
def exclusive_lock(path: Path, *, wait: bool) -> Generator[None]:
    """Hold the lock file `path`. The kernel releases it when the process ends, in any way.

    A disk without locks keeps nobody out, which a warning tells. Processes that share a comparison have leases there.

    Args:
        path: the lock file, created if missing. Only the holder of the lock may remove it.
        wait: wait for the holder instead of raising.

    Yields:
        Nothing.

    Raises:
        LockedError: another process holds the lock and `wait` is false.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file(path)
    with file:
        with storage_errors(path):
            taken = _taken(file, path, wait=wait)
        if not taken:
            raise LockedError(
                f"Another process works on {path.parent} and holds {path}. Wait for it, or choose another folder."
            )
        yield


def _taken(file: BinaryIO, path: Path, *, wait: bool) -> bool:
    try:
        return take_lock(file, path, wait=wait)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "the disk of %s has no locks; see that no other process works on this folder", path.parent
        )
        return True


def locked_by_another(path: Path) -> bool:
    """Return whether another process holds a lock file, according to the kernel, because testing a lock would take it."""
    try:
        inode, listed = path.stat().st_ino, Path("/proc/locks").read_text("utf-8")
    except OSError:
        return False
    # A line is "1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF". Compare only inodes: on overlay file systems devices differ.
    held = (line.split() for line in listed.splitlines() if " FLOCK " in line and "->" not in line)
    return any(place.endswith(f":{inode}") and int(pid) != os.getpid() for *_, pid, place, _, _ in held)
