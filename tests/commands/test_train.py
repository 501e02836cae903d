"""Test the table at the end of a training job, word for word, and settings that are refused before training."""

import numpy as np
import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands.train import job_table
from tests.commands.found import OURS, THEIRS, job

TABLE = """\
                                          AUC   accuracy   log loss         NE    ms/step  samples/s
progressive hybrid                     0.9444     0.8333     0.3696     0.5332
progressive adagrad (baseline)         0.7778     0.8333     0.5831     0.8412
test        hybrid                     0.9444     0.8333     0.3696     0.5332       0.80      2,500
test        adagrad (baseline)         0.7778     0.8333     0.5831     0.8412       0.80      2,500
test        constant prediction        0.5000     0.5000                1.0000

hybrid minus adagrad [95% interval]
progressive auc        +0.16667  [-0.36677, +0.70010]  no significant difference
progressive accuracy   +0.00000  [-0.50606, +0.50606]  no significant difference
progressive logloss    -0.21349  [-0.51547, +0.08849]  no significant difference
test        auc        +0.16667  [-0.36677, +0.70010]  no significant difference
test        accuracy   +0.00000  [-0.50606, +0.50606]  no significant difference
test        logloss    -0.21349  [-0.51547, +0.08849]  no significant difference
Intervals cover the sampling of data only. To include seed-to-seed variation, run on the same data:
dlrm-adahessian compare --optimizers adagrad,hybrid --seeds 10
"""


def test_the_table_says_how_good_both_are_and_by_how_much() -> None:
    assert job_table(job()).splitlines() == TABLE.splitlines()


def test_samples_that_differ_have_no_difference() -> None:
    lines = job_table(job(progressive=False)).splitlines()
    assert [line.split()[0] for line in lines[8:]] == ["test", "test", "test", "Intervals", "dlrm-adahessian"]


@pytest.mark.parametrize("label", [0, 1])
def test_samples_of_one_class_have_no_auc_and_all_else(label) -> None:
    lines = job_table(job(labels=np.full(6, label, np.int8))).splitlines()
    cells = [line[34:].split() for line in lines[1:5]]
    assert [row[0] for row in cells] == ["-"] * 4, "no AUC"
    right = [((found >= 0.5) == label).mean() for found in (OURS, THEIRS)] * 2
    assert [float(row[1]) for row in cells] == pytest.approx(right, abs=1e-4)
    assert [line.split()[1:] for line in lines if " auc " in line] == [["auc", "-"]] * 2
    assert "nan" not in "\n".join(lines)


def test_a_model_or_a_batch_that_cannot_be_is_refused_before_any_work(tmp_path, capsys):
    """Hidden layers of 2 M units have 16 TB of weights, 13 inputs to 10^9 units 52 GB, and 10^12 samples take 4 TB."""
    for flags in (
        ["--model.top", "2000000", "2000000"],
        ["--model.bottom", str(10**9)],
        ["--model", "deepfm", "--model.deep", "2000000", "2000000"],
        ["--model", "dcnv2", "--model.deep", "2000000", "2000000"],
        ["--batch-size", str(10**12)],
        ["--model.embedding-dim", str(10**12)],
    ):
        out = tmp_path / "run"
        assert main(["train", "--dataset", "synthetic", "--device", "cpu", "--out", str(out), *flags]) == 64
        assert "GB, but this machine has" in capsys.readouterr().err
        assert not out.exists()
