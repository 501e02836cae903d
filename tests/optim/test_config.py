"""Test the schedule, the search space, and what reading the settings imports."""

import subprocess
import sys

import pytest

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.optim.base import Choice, Range
from dlrm_adahessian.optim.config import OptimConfig, ScheduleConfig, lr_scale
from dlrm_adahessian.presets import optimizer_preset, preset_names

NAMES = preset_names("optimizers")


def of_preset(name: str) -> RunConfig:
    return from_dict({**optimizer_preset(name), "optimizer": name})


def value_at(optim: OptimConfig, dotted: str) -> float | str:
    part, name = dotted.split(".")
    return getattr(getattr(optim, part), name)


def test_schedule_warms_up_and_decays_to_its_last_step():
    cfg = ScheduleConfig(warmup=0.2, decay="linear")
    assert [lr_scale(step, 10, cfg) for step in range(1, 11)] == [
        0.5,
        1,
        1,
        *(n / 8 for n in range(7, 0, -1)),
    ]
    assert {lr_scale(step, 10, ScheduleConfig()) for step in range(1, 11)} == {1.0}
    falling = ScheduleConfig(warmup=0.1, decay="inverse_sqrt", t0=0.4, rows="constant")
    assert [lr_scale(step, 20, falling) for step in (1, 2, 3, 11)] == [0.5, 1, 1, 2**-0.5]
    assert [lr_scale(step, 20, falling, "rows") for step in (1, 2, 3, 11)] == [0.5, 1, 1, 1]


@pytest.mark.parametrize(
    ("cfg", "depends"),
    [
        (ScheduleConfig(), False),
        (ScheduleConfig(rows="constant"), False),
        (ScheduleConfig(warmup=0.1), True),
        (ScheduleConfig(decay="linear"), True),
        (ScheduleConfig(decay="inverse_sqrt", rows="constant"), True),
    ],
)
def test_a_schedule_has_shares_just_when_a_longer_run_has_other_rates(cfg, depends):
    rates = [[lr_scale(step, total, cfg) for step in range(1, 21)] for total in (20, 40)]
    assert (rates[0] != rates[1]) == depends == bool(cfg.shares)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_lies_in_its_search_space(name):
    optim = of_preset(name).optim
    space = optim.search_space
    assert {"dense.lr", "rows.lr", "schedule.warmup", "schedule.decay"} <= space.keys()
    outside = {
        dotted: value_at(optim, dotted) for dotted in space if value_at(optim, dotted) not in space[dotted]
    }
    assert outside == {}


def test_what_a_preset_turns_off_is_not_drawn():
    assert "dense.weight_decay" not in of_preset("adam").optim.search_space
    assert of_preset("adamw").optim.search_space["dense.weight_decay"] == Range(1e-3, 1.0)


def test_schedules_are_the_same_choice_for_every_optimizer():
    spaces = [of_preset(name).optim.search_space for name in NAMES]
    choices = [{k: v for k, v in space.items() if k.startswith("schedule.")} for space in spaces]
    assert all(choice == choices[0] for choice in choices)
    assert choices[0]["schedule.warmup"] == Choice((0.0, 0.05, 0.1))


def test_settings_and_presets_import_neither_torch_nor_numba_nor_triton():
    """`--help` reads the settings and must be fast, but a rule's file also contains its kernels."""
    program = """
import sys
from typing import get_args
from dlrm_adahessian.config import load
from dlrm_adahessian.optim.dense import DenseConfig
from dlrm_adahessian.optim.rows import RowConfig
from dlrm_adahessian.presets import preset_names
settings = [kind() for table in (DenseConfig, RowConfig) for kind in get_args(table)]
settings += [load(None, name) for name in preset_names("optimizers")]
print(*{"torch", "numba", "triton"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
