"""A separate process that holds a lock."""

import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_HOLD = """
import sys, time
from pathlib import Path
from dlrm_adahessian.runs.sealed import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def holding(path: Path, seconds: float = 60) -> Generator["subprocess.Popen[str]"]:
    """Let another process hold the lock file `path` until it ends, or until the block ends and kills it."""
    command = [sys.executable, "-c", _HOLD, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()
