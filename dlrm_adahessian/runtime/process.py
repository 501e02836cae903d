"""What the process is told before libraries are loaded: numba's threads and cache, malloc's thresholds, what logs may say.

They read it once, when they are imported. Imports none of them.
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
# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more
_KEPT = 2**31 - 1  # bytes
# NVIDIA's, AMD's, and that of Windows below a Linux.
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
_SCHEDULED = Path("/proc/thread-self/schedstat")  # ns on a core, ns waiting for one, turns; of Linux


def settle_numba(package: Path) -> None:
    """Tell numba how many threads it may use, and where to keep compiled kernels; call it before numba is imported.

    Numba takes all cores by itself, and tells the OpenMP that torch uses to do so too: ranks that torchrun gave one thread
    each would get in each other's way (docs/scaling.md). Once it is imported it refuses another number.

    Numba keeps kernels beside the sources, or else in the user's cache folder. A program installed by somebody else and a
    user without a home, as in a container or a service, have neither, and numba would refuse to start.

    Args:
        package: folder of the sources.
    """
    if "numba" not in sys.modules and (threads := os.environ.get("OMP_NUM_THREADS", "").split(",")[0]):
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    if _CACHE not in os.environ:
        _settle_cache(package)


def _settle_cache(package: Path) -> None:
    """Name a folder to numba where neither of its own two can be written."""
    places = [package / "__pycache__"]
    with suppress(RuntimeError):  # neither environment nor system knows a home, as of a container's user
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "numba")
    if not any(_can_hold(place) for place in places):
        os.environ[_CACHE] = str(_private_folder())


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


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed, up to 2 GiB, instead of returning it to the system; elsewhere do nothing.

    By default each tensor of some megabytes is mapped anew, and the system clears its pages on first use: with batches
    of 128 a quarter of the time of a Hutchinson step.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def host_memory() -> int:
    """Return the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_gpu_driver(device: str) -> None:
    """Refuse the device cuda on a machine without the driver of a GPU, before torch is imported, which takes seconds."""
    if device == "cuda" and not any(map(Path.exists, _GPU_DRIVERS)):
        raise UsageError(
            "device cuda needs a GPU, and this machine has no driver of one; use --device auto or cpu"
        )


def seconds_without_core() -> float | None:
    """Return how long this thread has been ready to run while others had the cores; None where the system does not say."""
    try:
        return int(_SCHEDULED.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def is_lack_of_memory(error: Exception) -> bool:
    """Whether an error says that memory or threads are used up; torch and the loader of libraries have no type for it."""
    signs = ("allocate memory", "out of memory", "start new thread", "failed to map segment")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in signs)


def quiet_libraries() -> None:
    """Show what this program logs, and of the libraries below it errors only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    logging.getLogger("dlrm_adahessian").setLevel(logging.INFO if is_first() else logging.ERROR)
    warnings.filterwarnings("ignore", module="torch.*")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
