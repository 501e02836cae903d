"""Configure the process before libraries are imported: numba's threads and cache, malloc thresholds, and log levels.

The libraries read these settings once, at import. This module imports none of them.
"""

import ctypes
import logging
import os
import stat
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.launcher import is_first
from dlrm_adahessian.runtime.terminal import PrintableFormatter

_CACHE = "NUMBA_CACHE_DIR"
# From glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc's upper limit
_KEPT = 2**31 - 1  # bytes
# NVIDIA, AMD, and WSL (Windows).
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
_SCHEDULED = Path("/proc/thread-self/schedstat")  # Linux: ns on a core, ns waiting for a core, time slices


def settle_numba(package: Path) -> None:
    """Set numba's number of threads and its cache folder. Call this before numba is imported.

    By default numba uses all cores, and makes torch's OpenMP do the same. Ranks to which torchrun gave one thread each
    would slow each other down (docs/scaling.md). Numba does not accept another number after its import.

    Numba caches kernels in the source folder, or else in the user's cache folder. If the program was installed by another
    user and there is no home folder, as in a container or a service, both are unavailable and numba fails to start.

    Args:
        package: folder of the sources.
    """
    if "numba" not in sys.modules and (threads := os.environ.get("OMP_NUM_THREADS", "").split(",")[0]):
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    if _CACHE not in os.environ:
        _settle_cache(package)


def _settle_cache(package: Path) -> None:
    """Set numba's cache folder if neither of its defaults is writable."""
    places = [package / "__pycache__"]
    with suppress(RuntimeError):  # no home folder, as for users in a container
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "numba")
    if not any(_can_hold(place) for place in places):
        os.environ[_CACHE] = str(_private_folder())


def _can_hold(folder: Path) -> bool:
    """Return whether a folder can be written to or created."""
    # In an unreadable parent folder, `Path.exists` raises, but `os.access` returns False.
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    return os.access(existing, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """Return a folder in the temporary directory that only this user can write to, the same one on every call.

    Numba executes files that it finds there, and the name is predictable, so a folder created by another user is rejected.
    """
    folder = Path(tempfile.gettempdir()) / f"dlrm_adahessian-{os.geteuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return folder
    return Path(tempfile.mkdtemp(prefix="dlrm_adahessian-"))


def keep_freed_memory() -> None:
    """Make glibc's malloc keep up to 2 GiB of freed memory instead of returning it. No effect with other C libraries.

    By default each tensor of several megabytes is mapped anew, and the system clears its pages on first use. At batch size
    128 this took a quarter of the time of a Hutchinson step.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def host_memory() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_gpu_driver(device: str) -> None:
    """Raise a `UsageError` for device cuda without a GPU driver. Importing torch first would take seconds."""
    if device == "cuda" and not any(map(Path.exists, _GPU_DRIVERS)):
        raise UsageError(
            "No GPU driver found on this machine for --device cuda. Use --device auto or --device cpu."
        )


def seconds_without_core() -> float | None:
    """Return how long this thread has waited for a core, in seconds; None if the system does not report it."""
    try:
        return int(_SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def is_lack_of_memory(error: Exception) -> bool:
    """Return whether an error means out of memory or threads. Torch and the library loader have no error type for it."""
    signs = ("allocate memory", "out of memory", "start new thread", "failed to map segment")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def quiet_libraries() -> None:
    """Show all log messages of this program, but only errors of libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("dlrm_adahessian").setLevel(logging.INFO if is_first() else logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch reads it at import
