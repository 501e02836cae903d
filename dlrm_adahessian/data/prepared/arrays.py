"""Arrays on disk, of numbers only."""

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.runs.sealed import DamagedFolderError


def read_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read a .npy file.

    Args:
        path: the file.
        mapped: map it read-only instead of reading it.

    Returns:
        The array.

    Raises:
        DamagedFolderError: it is no array of numbers: a pickle, objects, an archive, anything else.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise DamagedFolderError(f"{path} is no array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays
        raise DamagedFolderError(f"{path} is no array of numbers but an archive")
    return array
