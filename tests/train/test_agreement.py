"""What ranks compare: the program file by file, and the prepared data as each machine sees it."""

import platform
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import xxhash

from dlrm_adahessian import __version__
from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.train import opened_run
from dlrm_adahessian.train.agreement import program


def test_a_program_is_its_versions_and_its_source_files(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "optim").mkdir(parents=True)
    (package / "loop.py").write_text("step()")
    (package / "optim" / "adam.py").write_text("")
    (package / "notes.txt").write_text("not a source file")
    found = program(package)
    sources = {"package/loop.py": "step()", "package/optim/adam.py": ""}
    for name, text in sources.items():
        assert found.pop(name) == xxhash.xxh3_64_hexdigest(text.encode())
    assert found.pop("python") == platform.python_version()
    assert found.pop("dlrm_adahessian") == __version__
    assert {"torch", "torchrec", "numba", "numpy"} < found.keys()
    assert found["numpy"] == version("numpy")
    assert {name for name in program() if name.endswith(".py")} > {"dlrm_adahessian/train/step.py"}


def test_the_first_rank_of_another_machine_verifies_the_rows_that_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(cache_dir=tmp_path, min_count=2)
    folder = open_dataset("synthetic", None, config, rows=70, bad_rows="strict").folder
    labels = np.load(folder / "labels.npy")
    np.save(folder / "labels.npy", 1 - labels)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert opened_run._follow(folder).labels.tolist() == (1 - labels).tolist(), "this rank does not verify"
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(
        StorageError, match=r"cannot read the data .*labels\.npy changed since it was written\. Set"
    ):
        opened_run._follow(folder)
