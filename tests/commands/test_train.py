"""The table that ends a training job, word for word."""

from dlrm_adahessian.commands.train import job_table
from tests.commands.found import job

TABLE = """\
                                           AUC    accuracy    log loss          NE   samples/s
progressive hybrid                      0.9444      0.8333      0.3696      0.5332
progressive adagrad (baseline)          0.7778      0.8333      0.5831      0.8412
test        hybrid                      0.9444      0.8333      0.3696      0.5332       1,234
test        adagrad (baseline)          0.7778      0.8333      0.5831      0.8412       1,234
test        base rate                   0.5000      0.5000                  1.0000

hybrid minus adagrad, with 95% interval
progressive auc        +0.16667  [-0.36677, +0.70010]  no difference shown
progressive accuracy   +0.00000  [-0.50606, +0.50606]  no difference shown
progressive logloss    -0.21349  [-0.51547, +0.08849]  no difference shown
test        auc        +0.16667  [-0.36677, +0.70010]  no difference shown
test        accuracy   +0.00000  [-0.50606, +0.50606]  no difference shown
test        logloss    -0.21349  [-0.51547, +0.08849]  no difference shown
The intervals cover the chance of the rows, for these two runs; other seeds vary too.
"""


def test_the_table_says_how_good_both_are_and_by_how_much() -> None:
    assert [line.rstrip() for line in job_table(job()).splitlines()] == TABLE.splitlines()


def test_samples_that_differ_have_no_difference() -> None:
    lines = job_table(job(progressive=False)).splitlines()
    assert [line.split()[0] for line in lines[8:]] == ["test", "test", "test", "The"]
