"""Finished runs are found again if and only if the training code is the same."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dlrm_adahessian
from dlrm_adahessian.config import RunConfig, composed
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.runs.finished import DIVERGED, SEAL, SUMMARY, TEST, FinishedRun
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.results import RunResult
from dlrm_adahessian.train.run_cache import find_or_fit, is_known_to_diverge, program, run_path

PACKAGE = Path(dlrm_adahessian.__file__).parent


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], bool]:
    """Return a function that changes a file in a copy of the package, and says whether the training code changed."""
    copy = tmp_path / "dlrm_adahessian"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def change(file: str, added: str) -> bool:
        before = program.__wrapped__(copy)
        with (copy / file).open("a") as source:
            source.write(added)
        return program.__wrapped__(copy) != before

    return change


@pytest.mark.parametrize(
    "file",
    [
        "optim/rows/hessian_adagrad.py",
        "optim/dense/adagrad.py",
        "curvature/exact.py",
        "embeddings/local_tables.py",
        "distributed/dense_exchange.py",
        "data/loader.py",
        "model/dlrm.py",
        "runtime/device.py",
        "metrics/binary.py",
        "train/step.py",
    ],
)
def test_changing_what_trains_is_another_program(changed: Callable[[str, str], bool], file: str) -> None:
    assert changed(file, "\n_FLOOR = 0.5\n")


@pytest.mark.parametrize(
    "file",
    [
        "report/templates/comparison.html.j2",
        "report/comparison.py",
        "embeddings/planning/plan.py",
        "compare/results.py",
        "commands/train.py",
        "statistics/crossed.py",
        "checkpoint/writer.py",
        "runs/sealed.py",
        "cli.py",
    ],
)
def test_rewording_a_report_a_plan_or_a_command_is_not(
    changed: Callable[[str, str], bool], file: str
) -> None:
    assert not changed(file, "\nmore words\n")


def test_a_run_on_another_kind_of_device_is_not_reused() -> None:
    samples, root = SimpleNamespace(fingerprint="rows"), Path("runs")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    on_cpu = run_path(RunConfig(), samples, root, cpu)
    assert on_cpu == run_path(RunConfig(), samples, root, cpu)
    assert on_cpu != run_path(RunConfig(), samples, root, cuda)


CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, PreparedData]:
    values = {
        "dataset": "synthetic",
        "rows": 700,
        "model": {"bottom": [4], "top": [4], "embedding_dim": 4},
        "data": {
            "cache_dir": str(tmp_path_factory.mktemp("cache")),
            "synthetic": {"cardinality_scale": 0.0001},
        },
    }
    config = composed(values, "rowwise_adagrad")
    return config, open_dataset(config.dataset, None, config.data, rows=config.rows, bad_rows="strict")


def found_in(root: Path, samples: tuple[RunConfig, PreparedData]) -> RunResult:
    with init_process_group(CPU):
        found = find_or_fit(*samples, root, CPU, title=None)
    assert found is not None
    return found


def reverse_predictions(run: Path) -> None:
    np.fromfile(run / TEST, "<f4")[::-1].tofile(run / TEST)


def leave_out_the_test(run: Path) -> None:
    (run / SUMMARY).write_text("{}")


def be_of_before_seals(run: Path) -> None:
    (run / SEAL).unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (reverse_predictions, "test.f32 changed since it was written; training the run again"),
        (leave_out_the_test, "summary.json changed since it was written; training the run again"),
        (
            be_of_before_seals,
            "an older version without seals wrote summary.json; training the run again",
        ),
    ],
)
def test_damaged_results_are_trained_anew_with_a_warning(
    samples: tuple[RunConfig, PreparedData],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: Callable[[Path], None],
    told: str,
) -> None:
    first = found_in(tmp_path, samples)
    run = run_path(*samples, tmp_path, CPU)
    whole = (run / TEST).read_bytes()
    with caplog.at_level(logging.WARNING):
        found_in(tmp_path, samples)
        assert not caplog.records
        harm(run)
        again = found_in(tmp_path, samples)
    assert told in caplog.text
    np.testing.assert_array_equal(again.test.probability, first.test.probability)
    assert again.summary.test == first.summary.test
    assert (run / TEST).read_bytes() == whole
    FinishedRun.open(run, samples[0].fingerprint(samples[1].fingerprint))


def test_runs_of_optimizers_with_a_dot_in_their_names_do_not_wait_for_each_other(
    samples: tuple[RunConfig, PreparedData], tmp_path: Path
) -> None:
    config, data = replace(samples[0], optimizer="mine.v1"), samples[1]
    found_in(tmp_path, (config, data))
    assert [path.name for path in tmp_path.glob("*.lock")] == [
        f"{run_path(config, data, tmp_path, CPU).name}.lock"
    ]


def test_a_divergence_is_believed_of_its_own_run_alone(
    samples: tuple[RunConfig, PreparedData], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, own = RunDirectory(tmp_path), samples[0].fingerprint(samples[1].fingerprint)
    assert not is_known_to_diverge(*samples, run)
    FinishedRun.seal_divergence(tmp_path, own, "the loss is not finite")
    assert is_known_to_diverge(*samples, run)
    assert not caplog.records
    FinishedRun.seal_divergence(tmp_path, "f" * 16, "the loss is not finite")
    assert not is_known_to_diverge(*samples, run)
    assert "seal.json belongs to another run; training the run again" in caplog.text
    (tmp_path / DIVERGED).unlink()
    assert not is_known_to_diverge(*samples, run)
