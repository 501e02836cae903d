"""Test the examples for clusters on one machine, with stand-ins for Slurm's commands."""

import os
import re
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from dlrm_adahessian import config
from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "examples" / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
if [ "$1" = show ]; then echo node-7; fi
if [ "$(basename "$0")" = srun ]; then trap "echo stopped >> $CALLS; exit 1" TERM; sleep "$SECONDS_OF_TRAINING" & wait; fi
"""


def settings(flags: list[str]) -> RunConfig:
    """Return the settings that flags of `train` produce. Unknown flags fail."""
    return parsed(config.load(None, None), flags, prog="train.py")


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job on two machines, with commands that only record their calls."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)
    job = {"JOB_ID": "41", "NNODES": "2", "JOB_NODELIST": "node-[7-8]", "GPUS_ON_NODE": "8"}
    return {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in job.items()},
        "SLURM_CPUS_PER_TASK": "16",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SECONDS_OF_TRAINING": "0",
    }


def test_slurm_starts_a_rank_for_each_gpu_with_flags_that_train_knows(slurm: dict[str, str]) -> None:
    subprocess.run([CLUSTER / "slurm.sh", "--dataset", "criteo"], env=slurm, check=True)
    started = Path(slurm["CALLS"]).read_text().splitlines()[-1]
    launcher, flags = started.split(" train.py ")
    assert "--nnodes 2 --nproc-per-node 8" in launcher
    assert "--rdzv-endpoint node-7:29500" in launcher
    found = settings(flags.split())
    assert (found.out, found.resume, found.dataset) == (Path("runs/slurm-41"), True, "criteo")


def test_slurm_queues_a_job_again_that_it_stops(slurm: dict[str, str]) -> None:
    job = subprocess.Popen([CLUSTER / "slurm.sh"], env={**slurm, "SECONDS_OF_TRAINING": "60"})
    calls = Path(slurm["CALLS"])
    deadline = time.monotonic() + 30
    while not (calls.exists() and "srun" in calls.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.2)  # until the script and the stand-in have set their traps
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) != 0
    assert calls.read_text().splitlines()[-2:] == ["stopped", "scontrol requeue 41"]


def test_the_first_task_of_a_study_begins_it_and_the_others_join(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    array = {**slurm, "SLURM_ARRAY_JOB_ID": "41", "LONGEST_WAIT": "0.1"}
    command = [CLUSTER / "slurm-study.sh", "--dataset", "criteo", "--trials", "30"]

    def task(number: int) -> int:
        found = subprocess.run(
            command, env={**array, "SLURM_ARRAY_TASK_ID": str(number)}, cwd=tmp_path, check=False
        )
        return found.returncode

    assert task(0) == 0
    assert task(1) == 124, "nothing has begun"
    study = tmp_path / "runs" / "study-41"
    study.mkdir(parents=True)
    (study / "comparison.json").touch()
    assert task(7) == 0
    begun, joined = Path(slurm["CALLS"]).read_text().splitlines()
    flags = begun.removeprefix("srun python -m dlrm_adahessian compare ").split()
    found = parsed(CompareConfig(), flags, prog="compare")
    assert (found.out, found.trials) == (Path("runs/study-41"), 30)
    assert joined == "srun python -m dlrm_adahessian compare --join runs/study-41"


def test_the_job_of_kubernetes_has_flags_that_launch_knows() -> None:
    job = yaml.safe_load((CLUSTER / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    command, flag, ranks, *flags = container["args"]
    assert (command, flag, int(ranks)) == (
        "launch",
        "--ranks",
        container["resources"]["limits"]["nvidia.com/gpu"],
    )
    assert settings(flags).resume
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_image_installs_what_the_project_asks_for() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    assert re.search(r"torch==\S+", text)[0] in PROJECT["dependencies"]  # pyright: ignore[reportOptionalSubscript]
    assert re.search(r'ENTRYPOINT \["(.+)"\]', text)[1] in PROJECT["scripts"]  # pyright: ignore[reportOptionalSubscript]
    extras = re.search(r"'\.\[(.+)\]'", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    kept = re.findall("^!(.+)$", (CLUSTER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in kept)
    needed = ["dlrm_adahessian", "packaging", "pyproject.toml", PROJECT["readme"]]
    assert set(needed) <= set(kept)
