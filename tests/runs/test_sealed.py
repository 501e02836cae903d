"""Sealed folders, atomic files, and locks, under kills, failing operations, and damage."""

import errno
import fcntl
import itertools
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from dlrm_adahessian.errors import LockedError, StorageError
from dlrm_adahessian.runs import files, sealed
from dlrm_adahessian.runs.sealed import (
    MANIFEST,
    DamagedFolderError,
    exclusive_lock,
    file_digest,
    fingerprint,
    locked_by_another,
    read_json,
    read_sealed,
    require_writable,
    sealed_folder,
    storage_errors,
    write_json,
    write_text,
)
from tests.faults import Outcome, disk_full, each_operation, kill
from tests.processes import plain_user
from tests.processes.holder import holding

FILES = {"a.bin": bytes(range(256)) * 20, "b.bin": b"second"}


def seal(final: Path, marker: str = "new") -> None:
    meta: dict[str, object] = {"marker": marker}
    with sealed_folder(final, meta) as folder:
        for name, data in FILES.items():
            with (folder / name).open("wb") as file:
                file.write(data)
        meta["late"] = 7


def copies_of(template: Path, root: Path) -> Callable[[], Path]:
    numbers = itertools.count()

    def fresh() -> Path:
        return Path(shutil.copytree(template, root / str(next(numbers))))

    return fresh


# Digests


def test_digest_equals_the_published_value_and_the_one_shot_hash(tmp_path: Path) -> None:
    empty, large = tmp_path / "empty", tmp_path / "large"
    empty.write_bytes(b"")
    large.write_bytes(data := os.urandom((1 << 22) + 12345))  # larger than a block of the reader
    assert (
        file_digest(empty) == "99aa06d3014798d86001c324468d497f"
    )  # XXH3_128 of no bytes, from the xxHash specification
    assert file_digest(large) == xxhash.xxh3_128_hexdigest(data)


def test_fingerprint_ignores_key_order_and_nothing_else() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert len({fingerprint(value) for value in ({"a": 1}, {"a": 2}, {"b": 1}, [1, 2], [2, 1])}) == 5


# Sealed folders


def test_sealed_folder_reads_back_with_what_was_added_to_meta_late(tmp_path: Path) -> None:
    seal(tmp_path / "x")
    manifest = read_sealed(tmp_path / "x")
    assert (manifest["marker"], manifest["late"]) == ("new", 7)
    assert {name: (tmp_path / "x" / name).read_bytes() for name in manifest["files"]} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_kill_at_any_operation_leaves_the_sealed_folder_complete_or_absent(tmp_path: Path) -> None:
    (template := tmp_path / "template").mkdir()
    complete = []
    for folder, outcome in each_operation(lambda root: seal(root / "x"), kill, copies_of(template, tmp_path)):
        assert outcome is Outcome.KILLED
        complete.append((folder / "x").exists())
        if complete[-1]:
            assert read_sealed(folder / "x")["late"] == 7
    assert complete == sorted(complete)
    assert {True, False} == set(complete)


def test_a_failing_operation_leaves_no_trace_and_becomes_a_storage_error(tmp_path: Path) -> None:
    (template := tmp_path / "template").mkdir()
    points = each_operation(lambda root: seal(root / "x"), disk_full, copies_of(template, tmp_path))
    outcomes = []
    for folder, outcome in points:
        outcomes.append(outcome)
        if (folder / "x").exists():  # only flushing the parent failed, or a removal that may fail
            assert read_sealed(folder / "x")["late"] == 7
        else:
            assert list(folder.iterdir()) == []
    assert outcomes.count(Outcome.REPORTED) > 10


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sealed_folder(tmp_path / "x", {}) as folder:
        (folder / "a").write_bytes(b"1")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def rename_entry(manifest: dict, name: str) -> None:
    manifest["files"][name] = manifest["files"].pop("a.bin")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit": lambda x: flip(x / "a.bin", 3000),
    "truncated": lambda x: (x / "a.bin").write_bytes(FILES["a.bin"][:-1]),
    "grown": lambda x: (x / "a.bin").write_bytes(FILES["a.bin"] + b"\0"),
    "zeroed": lambda x: (x / "a.bin").write_bytes(bytes(4096) + FILES["a.bin"][4096:]),
    "missing": lambda x: (x / "a.bin").unlink(),
    "foreign": lambda x: (x / "c.bin").write_bytes(b""),
    "swapped": lambda x: (
        (x / "a.bin").rename(x / "t") and (x / "b.bin").rename(x / "a.bin") and (x / "t").rename(x / "b.bin")
    ),
    "link": lambda x: (x / "b.bin").rename(x.parent / "b") and (x / "b.bin").symlink_to(x.parent / "b"),
    "folder": lambda x: (x / "b.bin").unlink() or (x / "b.bin").mkdir(),
    "no manifest": lambda x: (x / MANIFEST).unlink(),
    "empty manifest": lambda x: (x / MANIFEST).write_bytes(b""),
    "manifest of another type": lambda x: (x / MANIFEST).write_text("[]"),
    "manifest without files": lambda x: edit_manifest(x, lambda m: m.pop("files")),
    "files of another type": lambda x: edit_manifest(x, lambda m: m.update(files=["a.bin", "b.bin"])),
    "entry of another type": lambda x: edit_manifest(x, lambda m: m["files"].update({"a.bin": None})),
    "size in manifest": lambda x: edit_manifest(x, lambda m: m["files"]["a.bin"].update(bytes=1)),
    "parent in manifest": lambda x: edit_manifest(x, lambda m: rename_entry(m, "../a.bin")),
    "absolute in manifest": lambda x: edit_manifest(x, lambda m: rename_entry(m, "/etc/passwd")),
    "gone": shutil.rmtree,
    "a file": lambda x: shutil.rmtree(x) or x.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    seal(tmp_path / "x")
    read_sealed(tmp_path / "x")
    damage(tmp_path / "x")
    with pytest.raises(DamagedFolderError, match=str(tmp_path)):
        read_sealed(tmp_path / "x")


# JSON and text


@pytest.mark.parametrize("fault", [kill, disk_full])
def test_a_replaced_file_is_the_old_or_the_new_one(tmp_path: Path, fault: Callable[[], None]) -> None:
    (template := tmp_path / "template").mkdir()
    write_json(template / "x.json", {"value": "old"})
    seen = []
    for folder, _ in each_operation(
        lambda root: write_json(root / "x.json", {"value": "new"}), fault, copies_of(template, tmp_path)
    ):
        seen.append(read_json(folder / "x.json"))
    assert {value["value"] for value in seen} == {"old", "new"}


def test_the_bytes_are_flushed_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename may reach the disk before unflushed data. A power failure then leaves an empty file."""
    flushed: list[int] = []
    monkeypatch.setattr(
        files, "flush_to_disk", lambda descriptor: flushed.append(os.fstat(descriptor).st_size)
    )
    write_text(tmp_path / "x", "hello")
    assert flushed[0] == len("hello")


def test_json_that_has_no_notation_for_a_number_is_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json") == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),  # more digits than Python accepts
        (b"\x80\x04\x95cposix\nsystem\n", "not valid JSON"),  # the start of a pickle
    ],
)
def test_json_that_is_none_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedFolderError, match=reason):
        read_json(tmp_path / "x.json")


def test_json_that_is_absent_huge_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedFolderError, match="missing"):
        read_json(tmp_path / "absent.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(DamagedFolderError, match="too large"):
        read_json(tmp_path / "huge.json")
    with pytest.raises(DamagedFolderError, match="cannot be read"):
        read_json(tmp_path)


# Errors


def test_an_error_without_a_name_gets_the_path_and_one_with_a_name_keeps_it() -> None:
    with (
        pytest.raises(StorageError, match="read or write /x: No space left on device. Free"),
        storage_errors(Path("/x")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(StorageError, match="read or write /y"), storage_errors(Path("/x")):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), "/y")


def test_a_write_that_the_system_cuts_short_is_reported(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(StorageError, match="File too large"):
            seal(tmp_path / "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


# Locks


def test_a_second_process_is_refused_until_the_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    with holding(path) as holder:
        with (
            pytest.raises(LockedError, match=f"works on {path.parent} and holds"),
            exclusive_lock(path, wait=False),
        ):
            pass
        holder.kill()
    with exclusive_lock(path, wait=False):
        pass


def test_a_lock_that_its_holder_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process opened the file before it was removed, so its lock would not exclude anyone."""
    path, real = tmp_path / "lock", fcntl.flock

    def removed_first(file, how):
        path.unlink()
        real(file, how)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", removed_first)
        with pytest.raises(LockedError, match=f"holds {path}"), exclusive_lock(path, wait=False):
            pass
    with exclusive_lock(path, wait=False):
        assert path.exists()


def test_waiting_outlasts_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holding(path, 0.5) as holder:
        start = time.monotonic()
        with exclusive_lock(path, wait=True):
            assert time.monotonic() - start > 0.2
        holder.wait()


def test_a_lock_of_another_process_is_seen_without_being_tried(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not locked_by_another(path), "there is no file"
    with holding(path):
        assert locked_by_another(path)
    assert not locked_by_another(path)
    with exclusive_lock(path, wait=False):
        assert not locked_by_another(path), "this process holds it"


def test_a_disk_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails_with(number: int) -> None:
        def flock(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    for number in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
        fails_with(number)
        caplog.clear()
        with exclusive_lock(tmp_path / "lock", wait=False):
            assert f"the disk of {tmp_path} has no locks" in caplog.text
    fails_with(errno.EIO)
    with (
        pytest.raises(StorageError, match="Input/output error"),
        exclusive_lock(tmp_path / "lock", wait=False),
    ):
        pass


def test_an_error_in_the_block_is_not_mistaken_for_one_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), exclusive_lock(tmp_path / "lock", wait=False):
        (tmp_path / "absent").read_bytes()


def test_a_file_that_another_process_wrote_must_be_seen_before_the_folder_is_sealed(tmp_path: Path) -> None:
    final = tmp_path / "x"
    temporary = sealed.temporary_folder(final)
    with pytest.raises(FileNotFoundError, match="not visible here"):
        sealed.seal(temporary, final, {}, {"tables-00001.safetensors": {"bytes": 3, "xxh3_128": "0" * 32}})
    assert not final.exists()


def test_results_are_refused_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "made" / "later", "--out")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f": {tmp_path / 'file'} is not a folder. Choose .* --out"):
        require_writable(tmp_path / "file" / "run", "--out")
    real = os.access  # root can write everywhere
    monkeypatch.setattr(
        "os.access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK | os.X_OK) and real(path, mode)
    )
    with pytest.raises(StorageError, match=f": {tmp_path} is not writable for this user. Choose .* --out"):
        require_writable(tmp_path / "run", "--out")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_results_are_refused_where_the_system_makes_no_folders(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="^Cannot write results to /proc/x: /proc accepts no new files "):
        require_writable(Path("/proc/x"), "--out")
    require_writable(tmp_path, "--out")
    assert not list(tmp_path.iterdir()), "the check leaves nothing behind"


@plain_user.needed
def test_results_are_refused_below_a_folder_that_may_not_be_looked_into(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    program = (
        "import pathlib, sys; from dlrm_adahessian.runs.sealed import require_writable; "
        "require_writable(pathlib.Path(sys.argv[1]), '--out')"
    )
    told = plain_user.python(program, closed / "runs" / "a", environment={}).stderr
    assert f"StorageError: Cannot write results to {closed}/runs/a: {closed} is not writable" in told


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device. Free space, or choose a folder on another disk."),
        (errno.EROFS, "Read-only file system. Choose a folder that you may write to."),
        (errno.EACCES, "Permission denied. Choose a folder that you may write to."),
        (errno.ENOENT, "No such file or directory. Choose another folder."),
    ],
)
def test_the_remedy_is_that_of_the_fault(number: int, remedy: str) -> None:
    with (
        pytest.raises(StorageError, match=f"^Cannot read or write /x: {remedy}$"),
        storage_errors(Path("/x")),
    ):
        raise OSError(number, os.strerror(number))
