"""Test that search ranges are equally wide for every optimizer and centered on the defaults."""

import dataclasses
from typing import get_args

import pytest

from dlrm_adahessian.optim.base import Range, rate
from dlrm_adahessian.optim.config import ScheduleConfig
from dlrm_adahessian.optim.dense import DenseConfig
from dlrm_adahessian.optim.rows import RowConfig

RULES = [*get_args(DenseConfig), *get_args(RowConfig)]


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


def test_a_rates_range_is_centred():
    found = rate(0.01)
    assert found.low * found.high == pytest.approx(1e-4)
    assert 0.01 in found
    assert 0.0003 not in found
    assert 0.4 not in found
