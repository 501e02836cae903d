"""From finished runs to a comparison."""

from dataclasses import replace

import pytest

from dlrm_adahessian.compare.results import CurvePoint
from dlrm_adahessian.compare.study import Contender
from dlrm_adahessian.compare.summary import runs_table, summarize, time_to
from dlrm_adahessian.report.comparison import verdict


def test_time_to_a_log_loss_is_linear_between_evaluations():
    curve = [
        CurvePoint(samples=10, seconds=1, logloss=0.6),
        CurvePoint(samples=20, seconds=3, logloss=0.5),
    ]
    assert time_to(curve, 0.55) == pytest.approx((15, 2))
    assert time_to(curve, 0.7) == (10, 1)
    assert time_to(curve, 0.4) is None


def test_an_optimizer_that_always_diverges_leaves_the_others_compared(study):
    """Its bands of tokens were once asked for too, of no seed."""
    lost = replace(study.contenders[1].finals[0], judged_logloss=None, summary=None, result=None)
    diverged = Contender(name="sgd", trials=[], chosen={}, finals=[lost])
    whole = summarize(study)
    found = summarize(replace(study, contenders=[*study.contenders, diverged]))
    assert found.differences == whole.differences
    assert found.bands.logloss == whole.bands.logloss
    assert found.optimizers["sgd"].final_runs_diverged == 1
    assert found.optimizers["sgd"].val == {}
    assert verdict(found)[-1] == "sgd cannot be compared with adagrad: no seed finished with both."


def test_what_is_kept_of_a_run_is_what_the_report_needs(study):
    """Predictions of final runs only: those of all trials would fill the memory."""
    for contender in study.contenders:
        assert all(run.result is None and run.summary is not None for run in contender.trials)
        assert all(run.result.summary == run.summary for run in contender.finals)
    table = runs_table(study).set_index(["optimizer", "kind"])
    (final,) = study.contenders[0].finals
    assert table.loc[("adagrad", "final"), "test_auc"].item() == final.summary.test.auc
