"""Signals that ask a process to stop."""

import signal

_STOPPING = (
    signal.SIGINT,  # Ctrl-C
    signal.SIGTERM,
    signal.SIGHUP,  # the terminal is closed
    signal.SIGXCPU,  # the processor time that `ulimit -t` allows is over; the kernel repeats it each second
)


def stopping() -> frozenset[signal.Signals]:
    """Return the signals that ask this process to stop, without those that it was told to ignore, as SIGHUP by nohup."""
    return frozenset(number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN)
