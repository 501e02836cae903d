"""Test the summary of finished runs."""

from dataclasses import replace

import numpy as np
import pytest

from dlrm_adahessian.compare.results import CurvePoint
from dlrm_adahessian.compare.study import Contender, SearchResult
from dlrm_adahessian.compare.summary import runs_table, summarize, time_to
from dlrm_adahessian.metrics.binary import log_losses
from dlrm_adahessian.report.comparison import verdicts, write_report
from dlrm_adahessian.statistics.crossed import crossed_mean


def test_time_to_a_log_loss_is_linear_between_evaluations():
    curve = [
        CurvePoint(samples=10, seconds=1, logloss=0.6),
        CurvePoint(samples=20, seconds=3, logloss=0.5),
    ]
    assert time_to(curve, 0.55) == pytest.approx((15, 2))
    assert time_to(curve, 0.7) == (10, 1)
    assert time_to(curve, 0.4) is None


def test_an_optimizer_that_always_diverges_leaves_the_others_compared(study):
    """Regression test: the bands of an entrant without finished seeds were computed."""
    lost = replace(study.contenders[1].finals[0], judged_logloss=None, summary=None, result=None)
    diverged = Contender(name="sgd", searches=[SearchResult(trials=[], chosen={}, finals=[lost])])
    whole = summarize(study)
    found = summarize(replace(study, contenders=[*study.contenders, diverged]))
    assert found.differences == whole.differences
    assert found.bands.logloss == whole.bands.logloss
    assert found.optimizers["sgd"].final_runs_diverged == 1
    assert found.optimizers["sgd"].val == {}
    assert verdicts(found)[-1].sentence == "sgd cannot be compared with adagrad: no seed finished with both."


def test_rows_without_tokens_have_no_bands_and_are_compared_all_the_same(study, tmp_path):
    preprocessing = study.data.preprocessing
    without = replace(preprocessing, schema=replace(preprocessing.schema, tokens=()))
    found = summarize(replace(study, data=replace(study.data, preprocessing=without)))
    assert found.bands is None
    assert found.differences == summarize(study).differences
    write_report(tmp_path, found, runs_table(study))
    assert "Differences by token frequency" not in (tmp_path / "report.html").read_text()


def test_what_is_kept_of_a_run_is_what_the_report_needs(study):
    """Only final runs keep predictions, because those of all trials would fill the memory."""
    for contender in study.contenders:
        assert all(run.result is None and run.summary is not None for run in contender.trials)
        assert all(run.result.summary == run.summary for run in contender.finals)
    table = runs_table(study).set_index(["optimizer", "kind"])
    (final,) = study.contenders[0].finals
    assert table.loc[("adagrad", "final"), "test_auc"].item() == final.summary.test.auc


@pytest.mark.campaign
def test_each_search_draws_for_itself_and_the_intervals_are_over_searches(searched):
    found = summarize(searched)
    table = runs_table(searched)
    for contender in searched.contenders:
        first, second = contender.searches
        assert {run.config.seed for run in first.trials} == {0}
        assert {run.config.seed for run in second.trials} == {10_000}
        assert first.trials[0].drawn != second.trials[0].drawn
        for search, seeds in ((first, [1, 3]), (second, [2, 4])):
            best = min(search.trials, key=lambda run: run.judged_logloss)
            assert search.chosen == best.drawn
            assert [run.config.seed for run in search.finals] == seeds
            assert all(run.drawn == best.drawn for run in search.finals)
        listed = table[table["optimizer"] == contender.name]
        assert listed.groupby(["search", "kind"]).size().to_dict() == {
            (0, "final"): 2, (0, "trial"): 1, (1, "final"): 2, (1, "trial"): 1,
        }  # fmt: skip
    for pair in found.differences:
        theirs, ours = (
            [
                [log_losses(*getattr(run.result, pair.part)[:2]) for run in search.finals]
                for search in contender.searches
            ]
            for contender in searched.contenders
        )
        expected = crossed_mean(np.mean(ours, axis=1) - np.mean(theirs, axis=1))
        assert pair.difference.logloss.estimate == pytest.approx(expected.estimate, abs=1e-12)
        assert pair.difference.logloss.ci95 == pytest.approx(expected.ci95, abs=1e-12)
        assert pair.difference.covers == "rows, seeds and tuning"
    assert all("4 seeds of 2 searches" in each.sentence for each in verdicts(found))
    assert found.intervals_cover.endswith("cover the sampling of data, seed-to-seed variation, and tuning.")
    assert [choice["seed"] for choice in found.optimizers["adagrad"].asdict()["searches"]] == [0, 10_000]
