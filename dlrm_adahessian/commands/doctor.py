"""`doctor`: whether torch, torchrec and fbgemm fit together."""

from collections.abc import Sequence

import tyro

from dlrm_adahessian.runtime.terminal import say


def doctor(arguments: Sequence[str]) -> int:
    """Check that torch, torchrec and fbgemm fit together, and say what to do."""
    tyro.cli(
        _no_arguments, args=arguments, prog="python -m dlrm_adahessian doctor", description=doctor.__doc__
    )
    from dlrm_adahessian.runtime.doctor import diagnose

    healthy, text = diagnose()
    say(text)
    return 0 if healthy else 1


def _no_arguments() -> None:
    """Take no flags but --help."""
