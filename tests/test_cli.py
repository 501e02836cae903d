"""Test that impossible commands fail before torch is loaded, which takes seconds."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
class WithoutTorch:
    def find_spec(name, *_):
        assert name != "torch", "torch is imported"
sys.meta_path.insert(0, WithoutTorch)
from dlrm_adahessian.cli import main
from dlrm_adahessian.runtime import process
process._GPU_DRIVERS = ()
for line in sys.stdin.read().splitlines():
    print(main(line.split()), flush=True)
"""
REFUSED = [
    (
        "train --dataset synthetic --out FILE/run",
        74,
        "Cannot write results to FILE/run: FILE is not a folder. Choose another folder with --out.",
    ),
    ("train --dataset synthetic --data.cache-dir FILE/c", 74, "Choose another folder with --data.cache-dir"),
    (
        "train --data-path ABSENT",
        66,
        "File not found: ABSENT.",
    ),
    (
        "train --dataset synthetic --device cuda",
        64,
        "No GPU driver found on this machine",
    ),
    ("train --dataset synthetic --learning-rate 1", 64, "Unknown flag: --learning-rate. Did you mean --lr?"),
    (
        "compare --dataset synthetic --device cuda",
        64,
        "No GPU driver found on this machine",
    ),
    ("compare --dataset synthetic --out FILE/study", 74, "Choose another folder with --out"),
    ("evaluate --run ABSENT --data-path FILE", 66, "ABSENT is not a run directory (config.json is missing)"),
    ("evaluate --run RUN --data-path ABSENT", 66, "File not found: ABSENT."),
    ("evaluate --run RUN --data-path FILE --out FILE/p.parquet", 74, "Choose another folder with --out"),
    ("export --run ABSENT --out NEW", 66, "ABSENT is not a run directory (config.json is missing)"),
    ("export --run RUN --out FILE/model", 74, "Choose another folder with --out"),
    ("prepare --data-path ABSENT", 66, "File not found: ABSENT."),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return the exit code and error message of each command, all from one process."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "FILE").write_text("")
    (folder / "RUN").mkdir()
    (folder / "RUN" / "config.json").write_text("{}")
    lines = "\n".join(command for command, *_ in REFUSED)
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, input=lines, cwd=folder, capture_output=True, text=True, check=True)
    complaints = done.stderr.replace(f"{folder}/", "").split("error: ")[1:]
    return dict(
        zip(
            (command for command, *_ in REFUSED),
            zip(map(int, done.stdout.split()), complaints, strict=True),
            strict=True,
        )
    )


@pytest.mark.parametrize(("command", "code", "told"), REFUSED)
def test_what_cannot_be_done_is_refused_without_torch(command, code, told, answers):
    found, complaint = answers[command]
    assert found == code
    assert told in complaint
