"""Arrays on disk: only arrays of numbers are read, and streamed rows read back unchanged."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.arrays import NpyWriter, read_array
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.runs.sealed import DamagedFolderError
from tests.data.oracle import random_block
from tests.data.prepared.test_vocabulary import vocabulary_of


def test_vocabulary_that_is_no_array_of_numbers_is_refused(tmp_path: Path) -> None:
    vocabulary_of(random_block(np.random.default_rng(4), 50, distinct=5), 2).save(tmp_path)
    path = tmp_path / "vocabulary_tokens.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    archive, array = io.BytesIO(), io.BytesIO()
    np.savez(archive, tokens=np.arange(3))
    np.save(array, np.arange(3))
    for content in (
        path.read_bytes(),
        b"",
        b"PK",
        b"x",
        pickle.dumps([1]),
        archive.getvalue(),
        array.getvalue()[:-1],
    ):
        path.write_bytes(content)
        for mapped in (False, True):
            with pytest.raises(
                DamagedFolderError,
                match=r"vocabulary_tokens\.npy is (not an array|an archive, not an array) of numbers",
            ):
                read_array(path, mapped=mapped)
        with pytest.raises(DamagedFolderError):
            Vocabulary.load(tmp_path, CRITEO)


def test_file_that_was_not_finished_is_no_array(tmp_path: Path) -> None:
    with pytest.raises(KeyError), NpyWriter(tmp_path / "x.npy", np.int8) as writer:
        writer.append(np.zeros(3, np.int8))
        raise KeyError
    with pytest.raises(ValueError, match="pickled"):  # NumPy takes unknown bytes for a pickle
        np.load(tmp_path / "x.npy", allow_pickle=False)


def test_an_array_of_unknown_length_is_what_numpy_writes_at_once(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    with NpyWriter(tmp_path / "x.npy", np.float32, (3,)) as writer:
        for piece in (rows[:1], rows[1:13], rows[13:13], np.asfortranarray(rows[13:])):
            writer.append(piece)
    np.save(tmp_path / "whole.npy", rows)
    assert (tmp_path / "x.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
