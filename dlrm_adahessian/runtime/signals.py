"""List the signals that ask a process to stop."""

import signal

_STOPPING = (
    signal.SIGINT,  # Ctrl-C
    signal.SIGTERM,
    signal.SIGHUP,  # the terminal was closed
    signal.SIGXCPU,  # the CPU time limit of `ulimit -t` is reached; the kernel repeats the signal every second
)


def stopping() -> frozenset[signal.Signals]:
    """Return the signals that ask this process to stop, except those that it ignores, such as SIGHUP under nohup."""
    return frozenset(number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN)
