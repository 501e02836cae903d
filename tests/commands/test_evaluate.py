"""Test the output of `evaluate`, word for word."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands.evaluate import evaluation_table
from dlrm_adahessian.commands.train import job_table
from dlrm_adahessian.evaluation.figures import model_figures
from tests.commands.found import LABELS, OURS, job, summary
from tests.processes import worlds

TABLE = """\
6 samples, 6 with a label, 0 rejected; 2.0 s, 3 samples/s
  a: 3 samples, 0 rejected
  b: 3 samples, 0 rejected

hybrid, step-3 of runs/hybrid
  AUC                            0.94444  [0.79046, 1.00000]
  accuracy                       0.83333  [0.43650, 0.96995]
  constant prediction accuracy   0.50000
  log loss                       0.36961  [0.12167, 0.61755]
  normalized entropy             0.53323  [0.17553, 0.89093]
  calibration                    0.90000  [0.39394, 1.40606]
  calibration error              0.15000  [0.00000, 0.54471]

adagrad
  AUC                            0.77778  [0.32883, 1.00000]
  accuracy                       0.83333  [0.43650, 0.96995]
  constant prediction accuracy   0.50000
  log loss                       0.58310  [0.42709, 0.73910]
  normalized entropy             0.84123  [0.61617, 1.06630]
  calibration                    1.00000  [0.22258, 1.77742]
  calibration error              0.23333  [0.00000, 0.62732]

adagrad minus hybrid [95% interval]
  AUC                           -0.16667  [-0.70010, +0.36677]
  accuracy                      +0.00000  [-0.50606, +0.50606]
  log loss                      +0.21349  [-0.08849, +0.51547]  p 0.1659: no significant difference

day: seventh
                                                 samples  click rate       AUC        NE  [95% interval]
  day 1                                                5      0.6000    0.9167    0.6277  [0.1534, 1.1020]
  day 2                                                1      0.0000         -         -
day: log loss of adagrad minus the first model, p adjusted over these slices
  day 1                                         +0.20592  [-0.16348, +0.57533]  p 0.2746

95% intervals cover the sampling of data only, not seed-to-seed variation.
Predictions written to p.parquet
"""


def test_the_table_says_how_good_the_models_are_by_how_much_and_where() -> None:
    assert [line.rstrip() for line in evaluation_table(summary()).splitlines()] == TABLE.splitlines()


@pytest.mark.parametrize(
    ("label", "undefined", "told"),
    [
        (0, ["AUC", "normalized entropy", "calibration"], "no sample is a click"),
        (1, ["AUC", "normalized entropy"], "all samples are clicks"),
    ],
)
def test_the_table_says_why_a_figure_has_no_value(label, undefined, told) -> None:
    labels = np.full(6, label, np.int8)
    found = replace(summary(), models=[model_figures("m", None, labels, OURS)], differences=[], slicings=[])
    lines = evaluation_table(found).splitlines()
    assert [line[:30].strip() for line in lines if line.endswith(" -")] == undefined
    note = f"- marks metrics that compare clicks with non-clicks. They are undefined here: {told}."
    assert note in lines


def test_predictions_that_tell_nothing_are_warned_of_and_are_no_error(tmp_path, caplog, capsys) -> None:
    for name, probability, warned in (("good", OURS, 0), ("reversed", 1 - OURS, 1)):
        columns = {"row": np.arange(6), "label": LABELS, "probability": probability}
        pd.DataFrame(columns).to_parquet(tmp_path / f"{name}.parquet")
        caplog.clear()
        assert main(["evaluate", "--data-path", str(tmp_path / f"{name}.parquet"), "--json"]) == 0
        assert "normalized_entropy" in json.loads(capsys.readouterr().out)
        said = [
            message for message in caplog.messages if "is no better than the constant prediction" in message
        ]
        assert len(said) == warned


def print_tables() -> None:
    assert not {"matplotlib", "jinja2"} & sys.modules.keys()
    sys.modules.update(matplotlib=None, jinja2=None)
    print(evaluation_table(summary()), job_table(job()), sep="\n")


def test_no_table_needs_plots_or_templates(tmp_path: Path) -> None:
    """With few samples, importing them would take longer than the rest of `evaluate`."""
    worlds.run(1, print_tables, log=tmp_path / "log")
    printed = worlds.printed(tmp_path / "log", 0)
    assert printed == f"{evaluation_table(summary())}\n{job_table(job())}\n"
