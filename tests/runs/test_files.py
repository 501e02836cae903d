"""Writing in shared folders: links are not followed, names are unpredictable, and only plain files are touched."""

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from dlrm_adahessian.runs.files import (
    continued,
    lock_file,
    new_file,
    remove_leftovers,
    replacing,
    temporary_name,
    why_not_plain,
)
from tests.processes import plain_user

WAYS: dict[str, Callable[[Path], object]] = {
    "new": lambda path: new_file(path).close(),
    "continued": lambda path: continued(path).close(),
    "locked": lambda path: lock_file(path).close(),
}


def replace(path: Path, data: bytes) -> None:
    with replacing(path) as file:
        file.write(data)


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"theirs")
    return path


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("leads", ["somewhere", "nowhere"])
def test_no_link_is_followed(tmp_path: Path, victim: Path, way: Callable[[Path], object], leads: str) -> None:
    absent = tmp_path / "absent"
    (tmp_path / "x").symlink_to(victim if leads == "somewhere" else absent)
    with pytest.raises(OSError, match=r"x"):
        way(tmp_path / "x")
    assert victim.read_bytes() == b"theirs"
    assert not absent.exists()


def test_a_link_is_replaced_itself(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "x").symlink_to(victim)
    replace(tmp_path / "x", b"ours")
    assert victim.read_bytes() == b"theirs"
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"ours"


def test_a_temporary_name_is_another_one_each_time(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "x") for _ in range(1000)}
    assert len(names) == 1000
    assert {path.parent for path in names} == {tmp_path}
    assert all(path.name.startswith(".x.") and path.name.endswith(".tmp") for path in names)


def test_leftovers_are_removed_whatever_stands_there_and_nothing_else(tmp_path: Path, victim: Path) -> None:
    """Leftovers of `x[1]`: a folder, a file, and a planted link."""
    temporary_name(tmp_path / "x[1]").mkdir()
    temporary_name(tmp_path / "x[1]").write_bytes(b"half")
    temporary_name(tmp_path / "x[1]").symlink_to(tmp_path)
    others = temporary_name(tmp_path / "x1")
    others.mkdir()
    remove_leftovers(tmp_path, of="x[1]")
    assert set(tmp_path.iterdir()) == {victim, others}
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == {victim}


def test_what_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    replace(tmp_path / "x", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "x") as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent/x'$"):
        replace(tmp_path / "absent" / "x", b"")


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_only_plain_files_are_written(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        path = Path("/dev/null")
    before = path.lstat()
    for way in (*WAYS.values(), lambda path: replace(path, b"ours")):
        with pytest.raises(OSError, match=path.name) as raised:
            way(path)
        assert raised.value.errno != errno.ENOENT
    assert stat.S_IFMT(path.lstat().st_mode) == stat.S_IFMT(before.st_mode)
    assert path.lstat().st_ino == before.st_ino
    assert why_not_plain(path) == ("a folder" if kind == "folder" else "a pipe or a device")


def test_a_file_with_a_second_name_is_not_continued(tmp_path: Path, victim: Path) -> None:
    """`cp -al RUN BACKUP` makes hard links, so continuing the run would change the backup."""
    (tmp_path / "x").hardlink_to(victim)
    with pytest.raises(OSError, match="hard link"):
        continued(tmp_path / "x")
    assert victim.read_bytes() == b"theirs"
    replace(tmp_path / "x", b"ours")
    assert victim.read_bytes() == b"theirs"


def test_what_is_continued_and_what_is_locked_keeps_its_bytes(tmp_path: Path, victim: Path) -> None:
    with lock_file(victim):
        assert victim.read_bytes() == b"theirs"
    with continued(victim) as file:
        file.write(b" and ours")
    assert victim.read_bytes() == b"theirs and ours"


def test_files_have_the_permissions_that_the_user_asks_for(tmp_path: Path) -> None:
    """Other users of the cache must be able to read them. With 0o600, as in tempfile, they could not."""
    before = os.umask(0o027)
    try:
        replace(tmp_path / "replaced", b"")
        for name, way in WAYS.items():
            way(tmp_path / name)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


@plain_user.needed
def test_the_lock_of_another_user_is_taken(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch(mode=0o444)
    program = (
        "import pathlib, sys; from dlrm_adahessian.runs.sealed import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1]), wait=False): print('held')"
    )
    assert plain_user.python(program, lock, environment={}).stdout == "held\n"
