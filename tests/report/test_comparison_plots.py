"""Plots of a comparison."""

import pandas as pd

from dlrm_adahessian.report.comparison_plots import sensitivity


def test_draws_that_all_diverged_have_no_plot_and_one_that_did_not_has():
    draws = {"kind": ["trial"] * 2, "optimizer": ["sgd"] * 2, "dense.lr": [0.1, 1.0], "rows.lr": [0.1, 1.0]}
    assert sensitivity(pd.DataFrame({**draws, "judged_logloss": [None, None]}), 0.001) is None
    assert sensitivity(pd.DataFrame({**draws, "judged_logloss": [None, 0.5]}), 0.001).startswith("<svg")


def test_rates_are_shown_as_numbers():
    draws = pd.DataFrame({
        "kind": "trial", "optimizer": "adagrad", "dense.lr": [1e-3, 1e-1], "rows.lr": [1e-2, 1.0],
        "judged_logloss": [0.5, 0.6],
    })  # fmt: skip
    drawn = sensitivity(draws, 0.001)
    assert ">0.01<" in drawn
    assert "mathdefault" not in drawn
