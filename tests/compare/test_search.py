"""Test that searches are reproducible, and that refined trials are near the best ones."""

import math

from dlrm_adahessian.compare.config import run_config
from dlrm_adahessian.compare.search import Search, at_an_edge
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


def test_refined_draws_lie_near_one_of_the_best_three_and_are_repeated(tmp_path):
    def draws():
        search = Search(run_config(small(tmp_path), "hybrid", seed=0), "random", 0)
        found = []
        for logloss in (0.5, 0.4, None, 0.3, 0.45, 0.6):
            trial, drawn = search.ask()
            search.tell(trial, logloss)
            found.append(drawn)
        best = [found[3], found[1], found[4]]
        refined = []
        for _ in range(20):
            trial, drawn = search.refine()
            search.tell(trial, 0.7)
            refined.append(drawn)
        return best, refined

    best, refined = draws()
    chosen = [
        [
            all(
                abs(math.log10(drawn[path] / value)) <= 0.25 + 1e-12
                if isinstance(value, float) and path.endswith("lr")
                else drawn[path] == value
                for path, value in near.items()
            )
            for near in best
        ]
        for drawn in refined
    ]
    assert all(map(any, chosen))
    assert all(map(any, zip(*chosen, strict=True))), "each of the three has some"
    assert len({drawn["dense.lr"] for drawn in refined}) == 20
    assert draws() == (best, refined)


def test_a_choice_at_an_end_of_its_range_is_named(tmp_path):
    config = run_config(small(tmp_path), "adagrad", seed=0)
    inside = config.optim.search_space["rows.lr"]
    assert at_an_edge(
        config, {"dense.lr": config.optim.search_space["dense.lr"].low, "rows.lr": inside.low * 10}
    ) == ["dense.lr"]
    assert at_an_edge(config, {"rows.lr": inside.high * 0.99}) == ["rows.lr"]
    assert at_an_edge(config, {}) == []
