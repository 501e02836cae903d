"""Tensor files that the safetensors library can read, and direct I/O with partial writes."""

import json
import random
from pathlib import Path
from typing import BinaryIO

import pytest
from safetensors.torch import load_file

from dlrm_adahessian.checkpoint.tensor_file import BLOCK, write_past_cache, write_tensors
from tests.checkpoints import dense_of, same_bits


class ShortFile:
    """File that accepts a limited number of bytes per write."""

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


def test_the_safetensors_library_reads_what_is_written_aligned_to_the_element(tmp_path: Path) -> None:
    dense = {f"{name}é": tensor for name, tensor in dense_of(1).items()}
    write_tensors(tmp_path / "x", dense)
    stored = load_file(tmp_path / "x")
    assert stored.keys() == dense.keys()
    assert all(same_bits(stored[name], tensor) for name, tensor in dense.items())
    with (tmp_path / "x").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    for name, tensor in dense.items():
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.element_size() == 0
