"""What a rank learns from its launcher, and that all ranks complain with one voice."""

import sys

import pytest

from dlrm_adahessian.errors import ToldElsewhereError, UsageError
from dlrm_adahessian.runtime.launcher import alone, is_first, is_first_here, printed_once, told_once


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
