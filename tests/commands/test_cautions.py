"""Test the warnings about results that are easy to misread."""

import pytest

from dlrm_adahessian.commands.cautions import slowed, useless
from dlrm_adahessian.commands.train import job_cautions
from dlrm_adahessian.metrics.binary import binary_metrics
from tests.commands.found import LABELS, OURS, job

REVERSED = 1 - OURS


def test_models_that_tell_no_more_than_the_base_rate_are_named_with_what_to_try():
    found = {name: binary_metrics(LABELS, p) for name, p in (("good", OURS), ("bad", REVERSED))}
    said = useless(found, "Lower --lr.")
    # One of 9 pairs is a tie. The entropy is the mean of -ln over .1, .3, .6, .2, .4, .1, divided by ln 2.
    assert (
        said
        == "bad (AUC 0.0556, normalized entropy 2.1269) is no better than the constant prediction. Lower --lr."
    )
    assert useless({"good": found["good"]}, "Lower --lr.") is None
    assert " and b (AUC 0.0556" in (useless({"a": found["bad"], "b": found["bad"]}, "") or "")


def test_rates_are_blamed_where_the_baseline_learned_and_rows_where_nothing_did():
    assert job_cautions(job()) == []
    ours, both = job_cautions(job(ours=REVERSED)), job_cautions(job(ours=REVERSED, theirs=REVERSED))
    assert [said.partition(". ")[2] for said in ours] == ["Lower --lr and --rows-lr."]
    assert [said.partition(". ")[2].startswith("Check the label column") for said in both] == [True]
    assert ours[0].startswith("hybrid (AUC")
    assert " and adagrad (baseline) (AUC" in both[0]


@pytest.mark.parametrize(("shares", "named"), [
    ({"a": None, "b": 0.02}, None),
    ({"a": 0.25, "b": 0.02}, "a spent 25% of its time waiting"),
    ({"a": 0.25, "b": 0.5}, "a spent 25% of its time waiting, b spent 50% of its time waiting"),
])  # fmt: skip
def test_runs_that_others_slowed_down_are_named_with_how_much(shares, named):
    said = slowed(shares)
    assert (said is None) == (named is None)
    assert named is None or f": {named}. On a shared machine, set OMP_WAIT_POLICY=passive" in said
