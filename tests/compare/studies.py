"""Provide comparisons on few synthetic samples with a small model. Each runs once for all tests that use it."""

from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import cache

import pytest

from dlrm_adahessian.compare import study as study_module
from dlrm_adahessian.compare import worker
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.compare.study import Study, run_study
from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.prepared.folder import open_prepared
from dlrm_adahessian.model.config import DCNv2Config, DLRMConfig
from tests.processes.program import call

SMALL = {
    "dataset": "synthetic",
    "rows": 2_800,
    "batch_size": 128,
    "model": DLRMConfig(bottom=(16,), top=(16,), embedding_dim=8),
}


def small(folder, **changes):
    data = DataConfig(cache_dir=folder / "cache", synthetic=SyntheticConfig(cardinality_scale=0.0001))
    return CompareConfig(**{**SMALL, "data": data, "out": folder / "study", **changes})


def arguments(folder):
    flags = ["--rows", "2800", "--batch-size", "128", "--model.bottom", "16", "--model.top", "16"]
    flags += ["--model.embedding-dim", "8", "--data.synthetic.cardinality-scale", "0.0001"]
    flags += ["--data.cache-dir", folder / "cache", "--out", folder / "study", "--dataset", "synthetic"]
    flags += ["--optimizers", "adagrad,hybrid", "--trials", "2", "--seeds", "2", "--parallel", "2"]
    return ["compare", *flags]


@cache
def _finished(base):
    folder = base / "compare"
    code, out, err = call(*arguments(folder))
    assert code == 0, err
    assert "in progressive log loss" in out
    return folder


@cache
def _chosen_progressively(base):
    changes = {
        "optimizers": "adagrad,rowwise_adagrad",
        "seeds": 1,
        "trials": 2,
        "refine": 1,
        "select": "progressive",
    }
    return run_here(small(base / "progressive", **changes))


@cache
def _searched_twice(base):
    changes = {"optimizers": "adagrad,rowwise_adagrad", "seeds": 4, "trials": 1, "searches": 2}
    return run_here(small(base / "searched", **changes))


class _AtOnce(Executor):
    """Trains in this thread, because importing torch in another process takes longer than these runs."""

    def __init__(self, _, *, initargs=(), **__):
        if initargs:
            worker._data = open_prepared(initargs[0])

    def submit(self, fn, /, *args, **kwargs):
        done = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@cache
def _of_models(base):
    changes = {
        "models": "dlrm,dcnv2",
        "optimizers": "hybrid",
        "model": DCNv2Config(embedding_dim=4, deep=(8,), crosses=1),
        "seeds": 2,
        "trials": 1,
    }
    return run_here(small(base / "models", **changes))


@contextmanager
def in_this_thread():
    """Make studies train in this thread until the block ends; yield the patch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module, "ProcessPoolExecutor", _AtOnce)
        patch.setattr(worker, "_data", None)
        yield patch


def run_here(config):
    """Run a study in this thread."""
    with in_this_thread():
        return run_study(config)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Return the folder of a comparison that `compare` ran."""
    return _finished(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Study:
    """Return a study that selected trials on every other block of the progressive samples."""
    return _chosen_progressively(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def searched(tmp_path_factory) -> Study:
    """Return a study with two searches of two seeds each."""
    return _searched_twice(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Study:
    """Return a study of two models trained by one optimizer."""
    return _of_models(tmp_path_factory.getbasetemp())
