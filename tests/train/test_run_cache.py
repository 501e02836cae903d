"""Finished runs are found again while the code that trains is the same, and only then."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dlrm_adahessian
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.train.run_cache import program, run_path

PACKAGE = Path(dlrm_adahessian.__file__).parent


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], bool]:
    """Return what changes a file of a copy of the package, and says whether the program that trains is another then."""
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
