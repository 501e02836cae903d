"""Environment variables of a launcher, and errors that only one rank reports."""

import sys

import pytest

from dlrm_adahessian.errors import ToldElsewhereError, UsageError
from dlrm_adahessian.runtime.launcher import (
    STORE,
    alone,
    is_first,
    is_first_here,
    printed_once,
    require_sound_launch,
    told_once,
)


@pytest.mark.parametrize(("world_size", "rank"), [(None, None), ("1", "0"), ("2", "0"), ("2", "1")])
def test_a_process_knows_whether_it_is_alone_and_first(world_size, rank, monkeypatch):
    for name, value in (("WORLD_SIZE", world_size), ("RANK", rank)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert alone() == (world_size != "2")
    assert is_first() == (rank != "1")


def refused():
    with told_once():
        sys.stdout.write("help")
        sys.stderr.write("warning")
        raise UsageError("wrong flag")


def test_the_first_rank_complains_of_what_all_find_and_the_others_leave_with_its_code(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="wrong flag"):
        refused()
    assert capsys.readouterr() == ("help", "warning")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ToldElsewhereError) as caught:
        refused()
    assert (caught.value.exit_code, str(caught.value)) == (UsageError.exit_code, "")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("local_rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_a_process_knows_whether_it_is_the_first_on_its_machine(local_rank, first, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert is_first_here() == first


@pytest.mark.parametrize(("rank", "printed"), [("0", ("help\n", "usage")), ("1", ("", ""))])
def test_help_is_printed_by_the_first_rank_alone(rank, printed, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit), printed_once():
        sys.stdout.write("help\n")
        sys.stderr.write("usage")
        raise SystemExit(0)
    assert capsys.readouterr() == printed


ADDRESS = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(("environment", "told"), [
    ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be an integer, got 'x'"),
    ({"RANK": "-1", "WORLD_SIZE": "2", **ADDRESS}, "RANK must be an integer, got '-1'"),
    ({"RANK": "0", "WORLD_SIZE": "2", **ADDRESS, "MASTER_PORT": "http"}, "MASTER_PORT must be an integer, got 'http'"),
    ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK is set, but MASTER_ADDR, MASTER_PORT are not"),
    ({"RANK": "0", **ADDRESS}, "RANK is set, but WORLD_SIZE is not"),
    ({"RANK": "2", "WORLD_SIZE": "2", **ADDRESS}, "RANK must be below WORLD_SIZE, got 2 of 2"),
    ({}, None),
    ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **ADDRESS}, None),
    ({"RANK": "1", "WORLD_SIZE": "2", STORE: "/store"}, None),
])  # fmt: skip
def test_an_environment_that_no_launcher_makes_is_refused(environment, told, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", STORE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if told is None:
        require_sound_launch()
    else:
        with pytest.raises(UsageError, match=f"^{told}. Start ranks with dlrm-adahessian launch or torchrun"):
            require_sound_launch()
