"""A place for numba's compiled kernels where its own two cannot be written; numba would refuse to start there.

Numba keeps them beside the sources, or else in the user's cache folder. A program installed by somebody else and a user
without a home, as in a container or a service, have neither.
"""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

_SETTING = "NUMBA_CACHE_DIR"


def settle(package: Path) -> None:
    """Name a folder to numba unless it has one; call it before numba is imported.

    Args:
        package: folder of the sources.
    """
    if _SETTING in os.environ:
        return
    places = [package / "__pycache__"]
    with suppress(
        RuntimeError
    ):  # neither the environment nor the system knows a home, as of a container's user
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "numba")
    if not any(_can_hold(place) for place in places):
        os.environ[_SETTING] = str(_private_folder())


def _can_hold(folder: Path) -> bool:
    """Whether a folder can be written, or made."""
    # Below a folder that may not be looked into, `Path.exists` raises; to `access` there is nothing.
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    return os.access(existing, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """Return a folder for temporary files that only this user can write, the same one each time.

    Numba runs what it finds there, and the name can be guessed: one that somebody else made is not taken.
    """
    folder = Path(tempfile.gettempdir()) / f"dlrm_adahessian-{os.geteuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="dlrm_adahessian-"))
