"""Write files safely in folders that other users may write to.

In such a folder, a link may replace a file or wait under the name of a future file. So this module writes a new file under
an unpredictable name, and renames it when it is complete. Only logs continue existing files, and only plain ones. Nothing
is written through a link.
"""

import errno
import fcntl
import glob
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def temporary_name(final: Path) -> Path:
    """Return a hidden, unpredictable name next to `final`, for a file or folder that will replace it."""
    return final.with_name(f".{final.name}.{secrets.randbits(64)}.tmp")


def remove_leftovers(folder: Path, of: str | None = None) -> None:
    """Remove files and folders that a killed process left under a `temporary_name`.

    Args:
        folder: folder to clean. It may be missing.
        of: final name of the leftovers to remove; None for all.
    """
    for path in folder.glob(f".{'*' if of is None else glob.escape(of)}.*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def new_file(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Create a file that must not exist, for example in a folder of `sealed.temporary_folder`.

    Args:
        path: the file.
        buffering: as in `open`.

    Returns:
        The file. Raises `FileExistsError` if the name exists, even as a broken link.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    return os.fdopen(descriptor, "wb", buffering)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Write a file during the block, and replace `path` with it if the block succeeds.

    After a crash `path` is the old or the new file. If `path` is a link, the link is replaced and its target unchanged.

    Args:
        path: the file.

    Yields:
        The new file.

    Raises:
        OSError: `path` is a folder, a pipe, or a device, or an error of the disk.
    """
    if (found := why_not_plain(path)) not in (None, "a link"):
        # A rename would replace /dev/null by a plain file.
        raise OSError(errno.EINVAL, f"it is {found}, not a plain file", str(path))
    temporary = temporary_name(path)
    try:
        with new_file(temporary) as file:
            yield file
            file.flush()
            flush_to_disk(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if str(error.filename) == str(temporary):  # the user does not know this name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def continued(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Open a plain file to append to, or create it.

    Args:
        path: the file.
        buffering: as in `open`.

    Returns:
        The file.

    Raises:
        OSError: the file is a link, is not plain, or has a hard link that would change too, or an error of the disk.
    """
    descriptor = _open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "a hard link gives it a second name; replace it by a copy", str(path))
    return os.fdopen(descriptor, "ab", buffering)


def lock_file(path: Path) -> BinaryIO:
    """Open a file for locking, and create it if it is missing. Its content stays unchanged.

    A file without write permission is opened for reading, which is enough for a lock.

    Args:
        path: the file.

    Returns:
        The file. Raises `OSError` if it is a link or not a plain file.
    """
    try:
        descriptor = _open_plain(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        descriptor = _open_plain(path, os.O_RDONLY)
    return os.fdopen(descriptor, "rb", 0)


def take_lock(file: BinaryIO, path: Path, *, wait: bool) -> bool:
    """Lock an open file. Return False if another process holds it, or if its last holder removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def why_not_plain(path: Path) -> str | None:
    """Say what is there instead of a plain file, such as "a link"; None for a plain file, or if nothing is visible."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode):
        return None
    return "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def why_not_writable(folder: Path) -> str | None:
    """Try to create something in a folder. Return why this fails, as a predicate, or None if it works."""
    if not folder.is_dir():
        return "is not a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "is not writable for this user"
    try:
        with tempfile.TemporaryDirectory(prefix=".dlrm_adahessian-", dir=folder):
            return None
    except OSError as error:  # os.access allows root everything, even in /proc
        return f"accepts no new files ({error.strerror})"


def time_in(folder: Path) -> float:
    """Return the current time of the clock that stamps files in a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.utime(file.fileno())
        return os.fstat(file.fileno()).st_mtime


def flush_to_disk(descriptor: int) -> None:
    """Flush an open file to disk."""
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flush_to_disk(descriptor)
    finally:
        os.close(descriptor)


def _open_plain(path: Path, flags: int) -> int:
    try:
        # O_NONBLOCK, because opening a pipe would block.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(
            errno.ELOOP, "it is a link, and this program does not write through links", str(path)
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return descriptor
