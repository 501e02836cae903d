"""Test that help shows every flag once, with a description, and the basic ones first."""

import dataclasses
import re
from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest

from dlrm_adahessian import config
from dlrm_adahessian.cli import main
from dlrm_adahessian.commands.evaluate import EvaluateConfig
from dlrm_adahessian.commands.export import ExportConfig
from dlrm_adahessian.commands.help import Layout, ReadBefore, WithRates, descriptions, under_headings
from dlrm_adahessian.commands.prepare import PrepareConfig
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig
from dlrm_adahessian.presets import preset_names


def names(values: dict, prefix: str = "--") -> Iterator[str]:
    """Yield the flags of settings, named as in config.json."""
    for key, value in values.items():
        name = f"{prefix}{key.replace('_', '-')}"
        if isinstance(value, dict) and key != "tables":  # one setting: a dict of tables
            yield from names(value, f"{name}.")
        else:
            yield name


def printed(capsys, *arguments: str) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_all_flags_are_shown_once_and_the_basic_ones_first(capsys):
    """Settings without a heading are included."""
    every = {*names(config.asdict(config.load(None, None))), "--model", "--config", "--lr", "--rows-lr"}
    page = printed(capsys, "train", "--help-all")
    shown = re.findall(r"^  (--[a-z][a-z0-9.-]+)", page, re.MULTILINE)
    assert sorted(shown) == sorted(every)
    short = printed(capsys, "train", "--help")
    basic = re.findall(r"^  (--[a-z][a-z0-9.-]+)", short, re.MULTILINE)
    assert basic == shown[: len(basic)]
    assert {"--data-path", "--optimizer", "--lr", "--rows-lr", "--out"} < {*basic}
    assert len(short.splitlines()) < 75 < len(page.splitlines())
    assert "--help-all shows all flags" in short


def test_presets_are_listed_and_learning_rates_are_those_of_the_chosen_one(capsys):
    page = " ".join(printed(capsys, "train", "--optimizer", "adam", "--help").split())
    assert f"Presets: {', '.join(preset_names('optimizers'))}. (default: adam)" in page
    rates = config.load(None, "adam").optim
    assert f"--optim.dense.lr. (default: {rates.dense.lr})" in page
    assert f"--optim.rows.lr. (default: {rates.rows.lr})" in page


@pytest.mark.parametrize("command", ["compare", "evaluate", "prepare", "export"])
def test_no_flag_of_a_command_is_shown_twice(command, capsys):
    page = printed(capsys, command, "--help")
    shown = re.findall(r"^  (--[a-z][a-z0-9.-]+)", page, re.MULTILINE)
    assert len(shown) == len({*shown}) > 3
    assert "{None}" not in page or command in ("prepare", "export")


def undescribed(kind: object) -> Iterator[str]:
    """Yield the settings without a description, in a class and in the classes of its fields."""
    if dataclasses.is_dataclass(kind):
        said, hints = descriptions(kind), get_type_hints(kind)
        for field in dataclasses.fields(kind):
            parts = [*undescribed(hints[field.name])]
            composed = any(map(dataclasses.is_dataclass, (hints[field.name], *get_args(hints[field.name]))))
            if field.name not in said and not composed:
                yield f"{kind.__name__}.{field.name}"
            yield from parts
    for part in get_args(kind):
        yield from undescribed(part)


def test_every_flag_is_described():
    kinds = (
        RunConfig,
        CompareConfig,
        PlanConfig,
        EvaluateConfig,
        PrepareConfig,
        ExportConfig,
        ReadBefore,
        WithRates,
    )
    assert {name for kind in kinds for name in undescribed(kind)} == set()


@dataclasses.dataclass(frozen=True)
class Below:
    one: int = 1
    """First
    of all."""
    two: int = 2


@dataclasses.dataclass(frozen=True)
class Above(Below):
    three: int | None = None
    """Third."""
    two: int = 3
    """Second."""


def test_what_a_class_does_not_say_is_said_by_the_one_that_it_inherits_from():
    assert descriptions(Above) == {"one": "First of all.", "three": "Third.", "two": "Second."}
    assert descriptions(Below) == {"one": "First of all."}


def test_settings_that_no_heading_names_come_last():
    made = under_headings(Above(three=7), Layout({"a b": ("three",)}), everything=True)
    assert [field.name for field in dataclasses.fields(made)] == ["a_b", "further"]
    assert made.a_b.three == 7
    assert [field.name for field in dataclasses.fields(made.further)] == ["one", "two"]
    assert not hasattr(under_headings(Above(), Layout({"a": ("one",)}), everything=False), "further")
