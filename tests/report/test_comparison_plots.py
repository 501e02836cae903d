"""Plots of a comparison."""

import pandas as pd

from dlrm_adahessian.report.comparison_plots import sensitivity


def test_draws_that_all_diverged_have_no_plot_and_one_that_did_not_has():
    draws = {"kind": ["trial"] * 2, "optimizer": ["sgd"] * 2, "dense.lr": [0.1, 1.0], "rows.lr": [0.1, 1.0]}
    assert sensitivity(pd.DataFrame({**draws, "judged_logloss": [None, None]}), 0.001) is None
    assert sensitivity(pd.DataFrame({**draws, "judged_logloss": [None, 0.5]}), 0.001).startswith("<svg")
