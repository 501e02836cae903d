"""Writing past the page cache: the file holds the parts, whatever their sizes and whatever the disk takes at once."""

import random
from pathlib import Path
from typing import BinaryIO

import pytest

from dlrm_adahessian.checkpoint.tensor_file import BLOCK, write_past_cache


class ShortFile:
    """Takes at most so many bytes of what it is given."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most

    def fileno(self) -> int:
        return self._file.fileno()

    def write(self, block: memoryview) -> int:
        return self._file.write(block[: self._most])


@pytest.mark.parametrize("most", [BLOCK, BLOCK // 2, 999_999])
@pytest.mark.parametrize("end", [0, 1, 4096, 12_345])
def test_a_file_holds_its_parts_one_after_another(tmp_path: Path, most: int, end: int) -> None:
    rng = random.Random(end)
    sizes = [0, 1, 17, 3 * BLOCK // 2, 4096, BLOCK]
    sizes.append(-sum(sizes) % BLOCK + end)
    parts = [rng.randbytes(size) for size in sizes]
    with (tmp_path / "x").open("wb", buffering=0) as file:
        write_past_cache(ShortFile(file, most), (memoryview(part) for part in parts))  # pyright: ignore
    assert (tmp_path / "x").read_bytes() == b"".join(parts)
