"""The one way to write a file, for folders that others write to as well.

There a link may stand in the place of a file, or be planted under the name of one that is about to be written. So what is
written is new, under a name that nobody can guess, and takes its place when it is complete; logs alone are continued, and
only where they are plain files. Nothing is written through a link.
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
    """Name what takes the place of `final` when it is complete: beside it, hidden, and not to be guessed."""
    return final.with_name(f".{final.name}.{secrets.randbits(64)}.tmp")


def remove_leftovers(folder: Path, of: str | None = None) -> None:
    """Remove from a folder what a killed process was writing or removing under a `temporary_name`.

    Args:
        folder: need not exist.
        of: name of what was to be replaced; default any.
    """
    for path in folder.glob(f".{'*' if of is None else glob.escape(of)}.*.tmp"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def new_file(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Open a file that is not there yet, as in a folder of `sealed.temporary_folder`.

    Args:
        path: the file.
        buffering: as of `open`.

    Returns:
        The file; `FileExistsError` where anything stands, a link that leads nowhere too.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    return os.fdopen(descriptor, "wb", buffering)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Write a file while the block runs, and put it in the place of `path` when the block ends well.

    After a crash `path` is the old or the new file. A link is replaced itself; what it leads to stays.

    Args:
        path: the file.

    Yields:
        The file that takes its place.

    Raises:
        OSError: `path` is a folder, a pipe or a device; or as the disk has it.
    """
    if (found := why_not_plain(path)) not in (None, "a link"):
        # A rename would put a plain file in the place of /dev/null.
        raise OSError(errno.EINVAL, f"it is {found}, not a plain file", str(path))
    temporary = temporary_name(path)
    try:
        with new_file(temporary) as file:
            yield file
            file.flush()
            flush_to_disk(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if str(error.filename) == str(temporary):  # a name that tells the user nothing
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def continued(path: Path, *, buffering: int = -1) -> BinaryIO:
    """Open a plain file to append to, or a new one.

    Args:
        path: the file.
        buffering: as of `open`.

    Returns:
        The file.

    Raises:
        OSError: it is a link, no plain file, or has a second name, whose file would change too; or as the disk has it.
    """
    descriptor = _open_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "a hard link gives it a second name; put a copy in its place", str(path))
    return os.fdopen(descriptor, "ab", buffering)


def lock_file(path: Path) -> BinaryIO:
    """Open a file to lock, and make it where it is absent; its bytes stay as they are.

    One of another user, which may not be written, is opened to be read: that is enough for a lock.

    Args:
        path: the file.

    Returns:
        The file; `OSError` where it is a link or no plain file.
    """
    try:
        descriptor = _open_plain(path, os.O_RDWR | os.O_CREAT)
    except PermissionError:
        descriptor = _open_plain(path, os.O_RDONLY)
    return os.fdopen(descriptor, "rb", 0)


def take_lock(file: BinaryIO, path: Path, *, wait: bool) -> bool:
    """Lock an open file, and return whether it is held, and still that of its path: its last holder may have removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def why_not_plain(path: Path) -> str | None:
    """Say what stands in the place of a file, as "a link"; None where there is a plain file, or nothing that can be seen."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    if stat.S_ISREG(mode):
        return None
    return "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"


def why_not_writable(folder: Path) -> str | None:
    """Say why nothing can be made in a folder; None where something can, which is tried."""
    if not folder.is_dir():
        return "that is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "this user may not write there"
    try:
        with tempfile.TemporaryDirectory(prefix=".dlrm_adahessian-", dir=folder):
            return None
    except OSError as error:  # root has every right, in /proc too
        return f"the system makes nothing there ({error.strerror})"


def flush_to_disk(descriptor: int) -> None:
    """Wait until all that was written to an open file is on disk."""
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flush_to_disk(descriptor)
    finally:
        os.close(descriptor)


def _open_plain(path: Path, flags: int) -> int:
    try:
        # Without O_NONBLOCK a pipe would be waited for.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a link, and nothing is written through links", str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", str(path))
    return descriptor
