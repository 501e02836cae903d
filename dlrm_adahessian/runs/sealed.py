"""Crash-safe files: sealed folders, atomic JSON, locks.

A sealed folder is complete or absent. It is written under a temporary name, gets a `manifest.json` with
the size and xxh3_128 of each file, is flushed to disk, and then renamed. Formats alone do not notice a
flipped bit, so every reader verifies the manifest before it trusts a byte.
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
MAX_JSON = 64 << 20  # bytes; nothing that this program writes as JSON comes near it
_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space, or choose a folder on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder that you may write to"),
    errno.EIO: "see what the system log says of the disk, and choose a folder on another one",
}

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # of network disks without them


class DamagedFolderError(Exception):
    """A sealed folder does not match its manifest; the caller decides what that means."""


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn an `OSError` of the block into a `StorageError` that names the path.

    Args:
        path: what the block reads or writes; used when the error names no file of its own.

    Yields:
        Nothing.

    Raises:
        StorageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder")
        raise StorageError(f"cannot read or write {error.filename or path}: {reason}; {remedy}") from error


def require_writable(folder: Path, flag: str) -> None:
    """See that a folder can be written, or made, before anything slow begins.

    Args:
        folder: where results will go.
        flag: which names another one.

    Raises:
        StorageError: it cannot.
    """
    place = folder.absolute()
    # Below a folder that may not be looked into, `Path.exists` raises; to `access` there is nothing.
    existing = next(path for path in (place, *place.parents) if os.access(path, os.F_OK))
    if (why := why_not_writable(existing)) is not None:
        raise StorageError(
            f"results need a folder that can be written, and {folder} would lie in {existing}: {why}; "
            f"name another with {flag}"
        )


def require_room(folder: Path, wanted: int, flag: str) -> None:
    """See that a disk has room, before hours of work.

    Args:
        folder: where results will go; it need not be there.
        wanted: bytes.
        flag: which names another folder.

    Raises:
        StorageError: there is less.
    """
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < wanted:
        raise StorageError(
            f"about {wanted / 1e9:,.2f} GB are needed in {folder}, and {free / 1e9:,.2f} GB are free; free space, or name "
            f"another folder with {flag}"
        )


def require_no_links(folder: Path) -> None:
    """See that a folder holds no links, through which its results would be written to other places.

    Args:
        folder: of a run or a comparison.

    Raises:
        StorageError: it does.
    """
    with storage_errors(folder):
        links = sorted(path.name for path in folder.iterdir() if path.is_symlink())
    if links:
        raise StorageError(
            f"results are written to a folder without links, and {folder} holds {', '.join(links)}; put copies in their "
            "place, or name another folder with --out"
        )


def file_digest(path: Path) -> str:
    """Return the xxh3_128 of a file as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: object) -> str:
    """Return 16 hexadecimal digits that identify a JSON-serialisable value, whatever its key order."""
    return xxhash.xxh3_64_hexdigest(json.dumps(value, sort_keys=True).encode())


def write_json(path: Path, value: object) -> None:
    """Replace `path` atomically by the JSON of `value`; after a crash it is the old or the new file."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """Return the JSON of a value as `write_json` writes it; a number that is not finite is a ValueError."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Replace `path` atomically by `text` in UTF-8; after a crash it is the old or the new file."""
    with storage_errors(path), replacing(path) as file:
        file.write(text.encode())


def finite(value: object) -> object:
    """Return nested tables and lists with null for each number that JSON has no notation for."""
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
        most: bytes that a file of its kind may have.

    Returns:
        The decoded value.

    Raises:
        DamagedFolderError: the file is missing, unreadable, too large, or not JSON.
    """
    try:
        if path.stat().st_size > most:
            raise DamagedFolderError(f"{path} is larger than any file of its kind")
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
        final: the folder's name; whatever stands there is replaced, and a kill at that moment leaves neither.
        meta: what the manifest says beside the files; read when the block ends, so it may grow until then.

    Yields:
        A temporary folder beside `final` to write the files into.
    """
    with storage_errors(final):
        temporary = temporary_folder(final)
        try:
            yield temporary
            seal(temporary, final, meta, {})
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def temporary_folder(final: Path) -> Path:
    """Make an empty folder beside `final`, for `seal` to rename; raises `OSError`."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(final)
    temporary.mkdir()
    return temporary


def seal(
    temporary: Path, final: Path, meta: Mapping[str, object], entries: Mapping[str, Mapping[str, int | str]]
) -> None:
    """Write the manifest of a folder, flush, and rename it to its name.

    Args:
        temporary: a folder of `temporary_folder` with all its files.
        final: its name; whatever stands there is replaced, and a kill at that moment leaves neither.
        meta: what the manifest says beside the files.
        entries: by file name, size and digest of files that are on disk already, so as not to read them again.

    Raises:
        FileNotFoundError: one of `entries` is not in the folder; other `OSError` as the disk has it.
    """
    files = {path.name: entries.get(path.name) or flushed_entry(path) for path in sorted(temporary.iterdir())}
    if unseen := sorted(entries.keys() - files.keys()):
        raise FileNotFoundError(
            errno.ENOENT, "another process wrote it, and it is not seen here", str(temporary / unseen[0])
        )
    write_json(temporary / MANIFEST, {**meta, "files": files})
    if final.exists():
        shutil.rmtree(final)
    put_in_place(temporary, final)


def put_in_place(temporary: Path, final: Path) -> None:
    """Rename a complete folder to its name; raises `OSError`, also where a file or a folder that is not empty stands."""
    temporary.rename(final)
    flush_folder(final.parent)


def flushed_entry(path: Path) -> dict[str, int | str]:
    """Wait until a file is on disk, and return its entry in a manifest: size and xxh3_128; raises `OSError`."""
    with path.open("rb") as file:
        flush_to_disk(file.fileno())
    return _entry(path)


def _entry(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "xxh3_128": file_digest(path)}


def entry_of(content: bytes) -> dict[str, int | str]:
    """Return the entry in a manifest of a file with this content."""
    return {"bytes": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


def read_sealed(folder: Path) -> dict[str, Any]:
    """Verify a sealed folder byte for byte.

    Args:
        folder: a folder that `sealed_folder` wrote.

    Returns:
        The manifest: `meta` and `files`.

    Raises:
        DamagedFolderError: a file is missing, foreign, unreadable, of another size, or its bytes changed.
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
        raise DamagedFolderError(f"{folder} holds {sorted(present)}, its manifest lists {sorted(files)}")
    for name, entry in files.items():
        verify_file(folder / name, entry)
    return manifest


def verify_file(path: Path, entry: object) -> None:
    """See that a file is what its entry in a manifest says.

    Args:
        path: the file.
        entry: what `entry_of` and `flushed_entry` return.

    Raises:
        DamagedFolderError: it is missing, a link, or of other bytes; that it cannot be read is an `OSError`.
    """
    if not path.exists():
        raise DamagedFolderError(f"{path} is missing")
    if path.is_symlink() or not path.is_file():
        raise DamagedFolderError(f"{path} is not a plain file")
    if entry != _entry(path):
        raise DamagedFolderError(f"{path} changed since it was written")


@contextmanager
def exclusive_lock(path: Path, *, wait: bool) -> Generator[None]:
    """Hold the lock file `path`; the kernel releases it when the process ends, however it ends.

    A disk without locks keeps nobody out, which a warning tells. Processes that share a comparison have leases there.

    Args:
        path: the lock file; created when absent. Who removes it must hold it.
        wait: wait for the holder instead of refusing.

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
                f"one process at a time works on {path.parent}, and another holds {path}; "
                "wait for it or choose another folder"
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
    """Whether another process holds a lock file; by what the kernel lists, since to try the lock is to hold it."""
    try:
        inode, listed = path.stat().st_ino, Path("/proc/locks").read_text("utf-8")
    except OSError:
        return False
    # As in "1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF". By the inode alone: on layered file systems devices differ.
    held = (line.split() for line in listed.splitlines() if " FLOCK " in line and "->" not in line)
    return any(place.endswith(f":{inode}") and int(pid) != os.getpid() for *_, pid, place, _, _ in held)
