"""Test that the built wheel is complete: it trains, evaluates, exports and compares outside the clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic.generator import row_blocks
from dlrm_adahessian.presets import preset_names

pytestmark = pytest.mark.slow

CLONE = Path(__file__).parents[1]
SMALL = ["--batch-size", "64", "--model.bottom", "8", "--model.top", "8", "--model.embedding-dim", "4"]
ROWS = ["--data-path", "rows.txt", "--data.cache-dir", "cache", "--data.min-count", "1"]
END = "--- end of a command\n"
ONE_AFTER_ANOTHER = f"""
import json, sys
import dlrm_adahessian
from dlrm_adahessian.cli import main
print(dlrm_adahessian.__file__, end={END!r})
for command in json.loads(sys.argv[1]):
    if code := main(command):
        sys.exit(code)
    print({END!r}, end="")
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, because setuptools would also pack files that earlier builds left next to the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CLONE / name, source)
    shutil.copytree(
        CLONE / "dlrm_adahessian", source / "dlrm_adahessian", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=source, check=True)
    [built] = (source / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def run(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Install the wheel into a new environment, and return a function that calls its command there.

    The environment sees the packages of this one, but not its editable install of the clone, because Python ignores .pth
    files in folders that a .pth file names.
    """
    folder = tmp_path_factory.mktemp("outside")
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    [site] = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-compile", "--target", site, wheel]
    subprocess.run([sys.executable, "-m", "pip", *map(str, install)], check=True)
    # Compiling all kernels for the new location would take longer than running them uncompiled.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"NUMBA_DISABLE_JIT": "1"}
    work = folder / "work"
    work.mkdir()
    (work / "rows.txt").write_bytes(b"".join(map(format_rows, row_blocks(SyntheticConfig(), 140))))

    def call(*arguments: str, program: tuple[str, ...] = ("-m", "dlrm_adahessian")) -> str:
        command = [str(folder / "venv" / "bin" / "python"), *program, *arguments]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_nothing_is_missing(run: Run) -> None:
    said = run("doctor")
    assert f"{len(preset_names('optimizers'))} found" in said
    assert "No problems found." in said


def test_it_is_the_wheel_that_plans_trains_evaluates_exports_and_compares(run: Run) -> None:
    plan = ["plan", "--tables", "criteo_1tb", "--sharding", "row"]
    train = ["train", *ROWS, *SMALL, "--out", "run"]
    evaluate = ["evaluate", "--run", "run", "--data-path", "rows.txt", "--report", "report.html", "--json"]
    export = ["export", "--run", "run", "--out", "model", "--json"]
    compare = ["compare", *ROWS, *SMALL, "--optimizers", "adagrad,hybrid", "--seeds", "1", "--out", "study"]
    # Run all in one process, because each process would spend seconds on the same imports.
    said = run(json.dumps([plan, train, evaluate, export, compare]), program=("-c", ONE_AFTER_ANOTHER))
    where, planned, trained, evaluated, exported, compared = said.split(END)[:-1]
    assert not Path(where).is_relative_to(CLONE)
    assert "26 tables" in planned
    assert "hybrid minus adagrad" in trained
    assert json.loads(evaluated)["rows"] == 140
    assert json.loads(exported)["identical"] > 0
    assert "written to study/report.html" in compared
