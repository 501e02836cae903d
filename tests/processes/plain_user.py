"""Run programs as a user without root rights, because root can read and write everything."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import dlrm_adahessian

_DROP = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
needed = pytest.mark.skipif(bool(_DROP) and not shutil.which("setpriv"), reason="root needs setpriv for this")


def python(
    program: str,
    *arguments: object,
    environment: Mapping[str, str],
    sources: Path = Path(dlrm_adahessian.__file__).parents[1],
) -> subprocess.CompletedProcess[str]:
    """Run a program in this environment, with the sources in a folder."""
    return subprocess.run(
        [*_DROP, sys.executable, "-P", "-c", program, *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(sources), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
