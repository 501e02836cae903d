"""Trials are repeated exactly."""

from dlrm_adahessian.compare.config import run_config
from dlrm_adahessian.compare.search import Search
from tests.compare.studies import small


def test_draws_are_repeated_exactly_and_differ_between_optimizers(tmp_path):
    def draws(name):
        search = Search(run_config(small(tmp_path), name, seed=0), "tpe", 0)
        found = []
        for number in range(12):
            trial, drawn = search.ask()
            search.tell(trial, None if number == 3 else number / 10)
            found.append(drawn)
        return found

    assert draws("adagrad") == draws("adagrad")
    assert draws("adagrad")[0]["rows.lr"] != draws("adam")[0]["rows.lr"]
