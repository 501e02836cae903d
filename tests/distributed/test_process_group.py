"""Where ranks connect and listen. A single process forms its own group, and leaves it however the block ends."""

import os
import socket
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist  # noqa: TID251 - mirrors distributed/

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import LostRankError, UsageError
from dlrm_adahessian.runtime.launcher import STORE


def test_alone_it_is_a_world_of_one_that_needs_no_rendezvous(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with init_process_group():
        assert dist.get_world_size() == 1
        total = torch.ones(3)
        dist.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
    assert not dist.is_initialized()


def test_group_is_left_when_the_block_fails():
    with pytest.raises(KeyError), init_process_group():
        raise KeyError
    assert not dist.is_initialized()


def test_gloo_binds_the_loopback_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    with init_process_group():
        assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")


def test_ranks_that_were_given_a_file_meet_there_and_listen_on_the_loopback_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        STORE: str(tmp_path / "store"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    before = listening()
    with init_process_group():
        assert (tmp_path / "store").stat().st_size
        assert {ip for ip, _ in listening() - before} == {"127.0.0.1"}
        total = torch.ones(3)
        dist.all_reduce(total)
        assert total.tolist() == [1, 1, 1]
    assert not dist.is_initialized()


def listening() -> set[tuple[str, int]]:
    found = psutil.Process().net_connections("inet")
    return {connection.laddr for connection in found if connection.status == psutil.CONN_LISTEN}


def test_a_port_that_another_program_holds_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for name, value in {
            "RANK": 0,
            "WORLD_SIZE": 2,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }.items():
            monkeypatch.setenv(name, str(value))
        told = rf"Port {port} \(MASTER_PORT\) .* already in use\. .*, or let torchrun --standalone"
        with pytest.raises(UsageError, match=told), init_process_group():
            pass
    assert not dist.is_initialized()


def test_a_first_rank_that_cannot_be_reached_is_told_in_a_sentence_and_no_stack_of_addresses(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    told = f"Not all of 2 ranks connected to 127.0.0.1:{port}; rank 1 gave up after 1 s"
    with pytest.raises(LostRankError, match=told), init_process_group(timeout=1):
        pass
    assert capfd.readouterr().err == ""
    os.write(2, b"after it")
    assert capfd.readouterr().err == "after it"


@pytest.mark.parametrize("place", ["address", "file"])
def test_a_rank_whose_others_do_not_come_says_so_when_its_time_is_over(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    values = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**values, **({STORE: tmp_path / "store"} if place == "file" else {})}.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(LostRankError, match="rank 0 gave up after 1 s"),
        init_process_group(timeout=1),
    ):
        pass
    assert not dist.is_initialized()
