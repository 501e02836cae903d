"""A worker refuses to train before it is begun; what it does after is seen in `test_study`."""

from pathlib import Path

import pytest

from dlrm_adahessian.compare import worker


def test_a_worker_is_begun_before_its_first_run():
    with pytest.raises(RuntimeError, match="must be begun before its first run; call begin"):
        worker.train({}, Path(), select="val", diagnose=False)
