"""What a search may draw: as wide for every optimizer, and around what the presets and defaults say."""

import dataclasses
from typing import get_args

import pytest

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.optim.config import DenseConfig, OptimConfig, RowConfig, ScheduleConfig
from dlrm_adahessian.optim.search_space import Choice, Range, rate
from dlrm_adahessian.presets import optimizer_preset, preset_names

RULES = [*get_args(DenseConfig), *get_args(RowConfig)]
NAMES = preset_names("optimizers")


def of_preset(name: str) -> RunConfig:
    return from_dict({**optimizer_preset(name), "optimizer": name})


def value_at(optim: OptimConfig, dotted: str) -> float | str:
    part, name = dotted.split(".")
    return getattr(getattr(optim, part), name)


@pytest.mark.parametrize("rule", RULES)
def test_every_learning_rate_is_searched_over_three_decades(rule):
    assert rule.tuned["lr"].decades == pytest.approx(3, abs=1e-9)


@pytest.mark.parametrize("rule", [*RULES, ScheduleConfig])
def test_only_settings_are_tuned_and_a_default_lies_in_its_range_unless_it_is_off(rule):
    assert rule.tuned.keys() <= {field.name for field in dataclasses.fields(rule)}
    for name, found in rule.tuned.items():
        value = getattr(rule(), name)
        assert value in found or (value == 0 and name != "lr"), name


@pytest.mark.parametrize("rule", RULES)
def test_a_configuration_takes_both_ends_of_its_ranges(rule):
    for name, found in rule.tuned.items():
        ends = (found.low, found.high) if isinstance(found, Range) else found.values
        assert [getattr(rule(**{name: end}), name) for end in ends] == [*ends]


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
    assert choices[0]["schedule.warmup"] == Choice((0.0, 0.1))


def test_a_rates_range_is_centred():
    found = rate(0.01)
    assert found.low * found.high == pytest.approx(1e-4)
    assert 0.01 in found
    assert 0.0003 not in found
    assert 0.4 not in found
