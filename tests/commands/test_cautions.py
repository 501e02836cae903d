"""What a reader of the tables is warned of, and what not."""

import pytest

from dlrm_adahessian.commands.cautions import slowed, useless
from dlrm_adahessian.commands.train import job_cautions
from dlrm_adahessian.metrics.binary import binary_metrics
from tests.commands.found import LABELS, OURS, job

REVERSED = 1 - OURS


def test_models_that_tell_no_more_than_the_base_rate_are_named_with_what_to_try():
    found = {name: binary_metrics(LABELS, p) for name, p in (("good", OURS), ("bad", REVERSED))}
    said = useless(found, "lower --lr")
    # Of 9 pairs one is a tie; the losses are -ln of .1, .3, .6, .2, .4, .1, their mean over ln 2.
    assert (
        said
        == "bad (AUC 0.0556, normalized entropy 2.1269) predicts no better than the base rate; lower --lr"
    )
    assert useless({"good": found["good"]}, "lower --lr") is None
    assert " and b (AUC 0.0556" in (useless({"a": found["bad"], "b": found["bad"]}, "") or "")


def test_rates_are_blamed_where_the_baseline_learned_and_rows_where_nothing_did():
    assert job_cautions(job()) == []
    ours, both = job_cautions(job(ours=REVERSED)), job_cautions(job(ours=REVERSED, theirs=REVERSED))
    assert [said.partition("; ")[2] for said in ours] == ["lower --lr and --rows-lr"]
    assert [said.partition("; ")[2].startswith("check which column is the label") for said in both] == [True]
    assert ours[0].startswith("hybrid (AUC")
    assert " and adagrad (baseline) (AUC" in both[0]


@pytest.mark.parametrize(("shares", "named"), [
    ({"a": None, "b": 0.02}, None),
    ({"a": 0.25, "b": 0.02}, "a waited for one 25% of its time"),
    ({"a": 0.25, "b": 0.5}, "a waited for one 25% of its time, b waited for one 50% of its time"),
])  # fmt: skip
def test_runs_that_others_slowed_down_are_named_with_how_much(shares, named):
    said = slowed(shares)
    assert (said is None) == (named is None)
    assert named is None or f": {named}; on a shared machine OMP_WAIT_POLICY=passive" in said
