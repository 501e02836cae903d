"""What a run says while it trains."""

import numpy as np

from dlrm_adahessian import journal
from dlrm_adahessian.artifacts import RunDirectory
from dlrm_adahessian.journal import Journal


def test_without_a_terminal_a_line_says_how_far_training_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(journal, "_tensorboard", lambda run: journal.nullcontext())
    caplog.set_level("INFO")
    labels, probability = np.array([0, 1], np.int8), np.array([0.5, 0.5], np.float32)
    for seconds, expected in (
        (0, ["hybrid: 6 of 8 samples, log loss 0.6931", "hybrid: 8 of 8 samples, log loss 0.6931"]),
        (60, []),
    ):
        monkeypatch.setattr(journal, "_LINE_EVERY", seconds)
        caplog.clear()
        with Journal(RunDirectory(tmp_path), log_every=1, total_steps=4) as told:
            told.begin("hybrid", done=4, total=8)
            for step in (3, 4):
                told.learnt(step, 0.7, labels, probability, dict, progressive=True)
        assert [record.getMessage() for record in caplog.records] == expected
