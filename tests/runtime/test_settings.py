"""Merging of settings, reading of TOML files, and messages for invalid values."""

import math
import re
from pathlib import Path

import pytest
from pydantic import Field

from dlrm_adahessian.errors import NoInputError, UsageError
from dlrm_adahessian.runtime.settings import changes, merged, nearest, read_toml, settings, validated


@settings
class Rule:
    name: str = "adam"
    lr: float = Field(default=0.1, gt=0)


@settings
class Job:
    rule: Rule = Rule()
    steps: int = 1


def test_a_table_of_another_name_replaces_the_one_below_whole():
    below = {"rule": {"name": "adam", "lr": 1, "beta": 2}, "steps": 1}
    assert merged(below, {"rule": {"lr": 3}}) == {"rule": {"name": "adam", "lr": 3, "beta": 2}, "steps": 1}
    assert merged(below, {"rule": {"name": "sgd", "lr": 3}}) == {"rule": {"name": "sgd", "lr": 3}, "steps": 1}
    assert below["rule"]["lr"] == 1


def test_changes_have_both_values_and_a_table_of_another_name_is_one_change():
    old = {"rule": {"name": "adam", "lr": 1, "beta": 2}, "steps": 1, "gone": 0}
    assert list(changes(old, old)) == []
    assert list(changes(old, {**old, "rule": {"name": "adam", "lr": 3, "beta": 2}})) == ["rule.lr 1 -> 3"]
    assert list(changes(old, {"rule": {"name": "sgd", "lr": 3}, "steps": 2})) == [
        "rule.name adam -> sgd",
        "steps 1 -> 2",
        "gone 0 -> None",
    ]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"stepz": 1}, "Unknown setting 'stepz'. Did you mean 'steps'?"),
        ({"rule": {"qqq": 1}}, "Unknown setting 'rule.qqq'. Known names: lr, name, rule, steps."),
        ({"rule": {"lr": 0}}, "rule.lr must be greater than 0, got 0"),
        ({"steps": "x", "zzz": 1}, "steps must be a valid integer"),
    ],
)
def test_what_breaks_a_rule_is_named_with_its_value(values, told):
    with pytest.raises(UsageError, match=re.escape(told)):
        validated(Job, values)


def test_absent_keys_take_their_defaults():
    assert validated(Job, {"rule": {"lr": 2}}) == Job(rule=Rule(lr=2))


def test_the_nearest_name_is_offered_or_all():
    assert nearest("adan", ["adam", "sgd"]) == ". Did you mean 'adam'?"
    assert nearest("xyz", ["adam", "sgd"]) == ". Known names: adam, sgd."


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        (None, NoInputError, "No such file"),
        (b"a = ", UsageError, "is not valid TOML"),
        (b"\xff", UsageError, "is not valid TOML"),
        (b"[" * 100_000, UsageError, "is not valid TOML"),
        (b"#" * (1 << 20 | 1), UsageError, "more than 1048576 bytes"),
    ],
    ids=["absent", "cut", "not UTF-8", "deep", "large"],
)
def test_what_is_no_configuration_file_is_refused(content, error, told, tmp_path: Path):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=told):
        read_toml(path)


@settings
class Numbers:
    rate: float = 1.0
    seed: int = 0
    widths: tuple[int, ...] = ()


@pytest.mark.parametrize(("values", "told"), [
    ({"rate": math.inf}, "rate must be a finite number"),
    ({"rate": math.nan}, "rate must be a finite number"),
    ({"rate": 10**400}, "rate must be a valid number"),
    ({"seed": 2**63}, r"seed must be below 2\*\*63, got a number with 64 bits"),
    ({"seed": 10**400}, r"seed must be below 2\*\*63, got a number with 1329 bits"),
    ({"widths": [1, 2**64]}, r"widths must be below 2\*\*63, got a number with 65 bits"),
])  # fmt: skip
def test_a_number_that_nothing_can_hold_is_refused(values, told):
    with pytest.raises(UsageError, match=told):
        validated(Numbers, values)
    assert validated(Numbers, {"seed": 2**63 - 1}).seed == 2**63 - 1
