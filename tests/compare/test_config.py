"""Test which settings the runs of a comparison share, and which differ."""

import numpy as np
import pytest
import torch

from dlrm_adahessian import config
from dlrm_adahessian.compare.config import run_config, trial_config
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.train.run_cache import find_or_fit
from tests.compare.studies import small


def test_runs_share_all_but_the_optimizer(tmp_path):
    study = small(tmp_path)
    configs = [run_config(study, name, seed=3) for name in ("hybrid", "adagrad")]
    ours, theirs = map(config.asdict, configs)
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"optimizer", "curvature", "curvature_every", "curvature_fraction", "optim"}
    schedules = [
        {path: drawn for path, drawn in each.optim.search_space.items() if path.startswith("schedule.")}
        for each in configs
    ]
    assert schedules[0] == schedules[1], "all presets search the same schedules"


def test_draws_train_on_the_last_rows_of_the_training_part(tmp_path):
    study = small(tmp_path, trial_rows=1_000)
    config = trial_config(study, "adagrad", {"rows.lr": 0.5})
    assert config.optim.rows.lr == 0.5
    data = open_dataset("synthetic", None, study.data, rows=study.rows, bad_rows="strict")
    with init_process_group():
        fitted = find_or_fit(config, data, tmp_path / "runs", torch.device("cpu"), title=None)
    assert fitted.summary.rows.train == fitted.summary.train.samples == 1_000
    later = data.labels[data.split.train][-1_000 + 166 :]  # the first day, a sixth of them, is not predicted
    np.testing.assert_array_equal(fitted.progressive[0], later)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"searches": 2, "seeds": 4}, "--trials is 0"),
        ({"searches": 3, "seeds": 4, "trials": 1}, "Pass --seeds 6"),
    ],
)
def test_searches_without_draws_or_with_unequal_shares_of_seeds_are_refused(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said):
        small(tmp_path, **changes)


def test_more_seeds_leave_those_of_each_search_what_they_were(tmp_path):
    few, more = (small(tmp_path, searches=2, trials=1, seeds=seeds) for seeds in (2, 6))
    for search in range(2):
        assert set(few.seeds_of(search)) < set(more.seeds_of(search))
        assert few.search_seed(search) == more.search_seed(search) not in more.final_seeds
