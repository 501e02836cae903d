"""Signals that ask a process to stop."""

import signal

from dlrm_adahessian.runtime.signals import stopping


def test_one_that_the_process_was_told_to_ignore_does_not():
    assert stopping() == {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert stopping() == {signal.SIGINT, signal.SIGTERM, signal.SIGXCPU}
    finally:
        signal.signal(signal.SIGHUP, before)
