"""What a checkpoint says of a run is checked before it is taken up."""

from dataclasses import asdict

import pytest

from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.train.progress import Progress, Saved

STATE = {
    "progress": asdict(Progress(step=7, skipped=2, best_logloss=0.5)),
    "metrics_bytes": 100,
    "progressive_rows": 5,
    "timing": {"seconds": 1.5, "samples": 3, "median": 0.1},
}


def test_a_runs_state_comes_back_and_keys_of_other_versions_are_passed_over():
    found = Saved.of({**STATE, "later": 1, "progress": {**STATE["progress"], "earlier": 3}}, "x")
    assert found == Saved(
        progress=Progress(step=7, skipped=2, best_logloss=0.5),
        metrics_bytes=100,
        progressive_rows=5,
        timing=STATE["timing"],
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"progress": 3}, "progress is not"),
        ({"progress": {**STATE["progress"], "step": "many"}}, "progress.step is not"),
        ({"metrics_bytes": None}, "metrics_bytes is not"),
        ({"timing": []}, "timing is not"),
        ({"window": "x"}, "window is not"),
    ],
)
def test_another_is_refused(changes, told):
    with pytest.raises(CheckpointError, match=f"the state of x must be a run's, and {told}"):
        Saved.of({**STATE, **changes}, "x")
