"""Compare downloaded files with the bytes of a mirror that misbehaves."""

import hashlib
import resource
from dataclasses import replace

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.download import fetch as fetching
from dlrm_adahessian.data.download.config import Archive
from dlrm_adahessian.data.download.fetch import fetch
from dlrm_adahessian.errors import DataError, NoInputError, StorageError
from tests.data.download.mirror import FILE, PATIENCE, Mirror, archive, files, served


def test_a_cut_connection_is_resumed_where_it_broke_off(tmp_path):
    mirror = Mirror(cuts=[300_000, 200_000])
    with served(mirror) as url:
        assert fetch(archive(url), tmp_path, PATIENCE).read_bytes() == FILE
    assert mirror.offsets == [0, 300_000, 500_000]
    assert sum(mirror.sent) == len(FILE)
    assert files(tmp_path) == ["dac.tar.gz"]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(tmp_path):
    with (
        served(Mirror(cuts=[300_000, 0, 0, 0])) as url,
        pytest.raises(NoInputError, match="3 times in a row"),
    ):
        fetch(archive(url), tmp_path, PATIENCE)
    assert files(tmp_path) == ["dac.tar.gz.part"]
    mirror = Mirror()
    with served(mirror) as url:
        fetch(archive(url), tmp_path, PATIENCE)
    assert mirror.offsets == [300_000]
    assert mirror.sent == [len(FILE) - 300_000]


def test_a_server_without_ranges_starts_anew(tmp_path):
    mirror = Mirror(cuts=[300_000], ranges=False)
    with served(mirror) as url:
        assert fetch(archive(url), tmp_path, PATIENCE).read_bytes() == FILE
    assert mirror.offsets == [0, 300_000]
    assert mirror.sent == [300_000, len(FILE)]


def test_a_server_without_ranges_that_never_gets_further_is_given_up(tmp_path):
    mirror = Mirror(cuts=[300_000, 200_000] * 5, ranges=False)
    with served(mirror) as url, pytest.raises(NoInputError, match="3 times in a row"):
        fetch(archive(url), tmp_path, PATIENCE)
    assert mirror.sent == [300_000, 200_000, 300_000, 200_000]


def test_a_server_that_stalls_is_left_and_asked_again(tmp_path):
    mirror = Mirror(cuts=[300_000], stalls=True)
    with served(mirror) as url:
        assert fetch(archive(url), tmp_path, replace(PATIENCE, timeout=1)).read_bytes() == FILE
    assert mirror.offsets == [0, 300_000]


@pytest.mark.parametrize("length", [True, False])
def test_a_wrong_digest_is_never_named_and_exits_65(length, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetching, "Patience", lambda: PATIENCE)
    wrong = FILE[:-1] + b"x"
    with served(Mirror(body=wrong, length=length)) as url:
        (tmp_path / "mirror.toml").write_text(
            f'url = "{url}?key=secret"\nsha256 = "{hashlib.sha256(FILE).hexdigest()}"\nbytes = {len(FILE)}\n'
        )
        out = tmp_path / "out"
        assert main(["download", "--config", str(tmp_path / "mirror.toml"), "--out", str(out)]) == 65
    told = capsys.readouterr().err
    assert hashlib.sha256(wrong).hexdigest() in told
    assert "secret" not in told
    assert files(out) == []


def test_a_begun_file_of_something_else_costs_a_second_pass_only(tmp_path):
    (tmp_path / "dac.tar.gz.part").write_bytes(b"x" * 1000)
    mirror = Mirror()
    with served(mirror) as url:
        assert fetch(archive(url), tmp_path, PATIENCE).read_bytes() == FILE
    assert mirror.offsets == [1000, 0]


def test_a_mirror_with_a_shorter_file_is_not_taken_for_the_archive(tmp_path):
    with (
        served(Mirror(body=FILE[:-10])) as url,
        pytest.raises(DataError, match="1,048,566 bytes, not 1,048,576"),
    ):
        fetch(archive(url), tmp_path, PATIENCE)
    assert files(tmp_path) == []


def test_a_file_that_always_ends_early_is_given_up(tmp_path):
    with (
        served(Mirror(body=FILE[:-10], length=False, ranges=False)) as url,
        pytest.raises(NoInputError, match="ended early, 3 times in a row"),
    ):
        fetch(archive(url), tmp_path, PATIENCE)
    assert "dac.tar.gz" not in files(tmp_path)


def test_a_length_of_5000_digits_is_none(tmp_path):
    with served(Mirror(length="9" * 5000)) as url:
        assert fetch(archive(url), tmp_path, PATIENCE).read_bytes() == FILE
    (tmp_path / "dac.tar.gz").rename(tmp_path / "dac.tar.gz.part")
    with (tmp_path / "dac.tar.gz.part").open("r+b") as begun:
        begun.truncate(1000)
    with (
        served(Mirror(length="9" * 5000)) as url,
        pytest.raises(NoInputError, match="did not send the file from byte"),
    ):
        fetch(archive(url), tmp_path, PATIENCE)


def test_a_failure_that_may_pass_is_tried_again_and_one_that_lasts_is_not(tmp_path):
    busy, absent, good = Mirror(status=503), Mirror(status=404), Mirror()
    with served(busy) as a, served(absent) as b, served(good) as c:
        fetch(archive(a, b, c), tmp_path, PATIENCE)
    assert [len(mirror.offsets) for mirror in (busy, absent, good)] == [3, 1, 1]


def test_no_mirror_exits_66_and_names_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetching, "Patience", lambda: PATIENCE)
    with served(Mirror()) as url:
        pass  # the port is closed afterward
    (tmp_path / "mirror.toml").write_text(
        f'url = ["{url}", "file://{tmp_path}/absent"]\nsha256 = "{"0" * 64}"\nbytes = 5\n'
    )
    assert main(["download", "--config", str(tmp_path / "mirror.toml"), "--out", str(tmp_path / "out")]) == 66
    told = capsys.readouterr().err
    assert "Connection refused" in told
    assert f"file://{tmp_path}/absent: No such file or directory" in told


def test_a_disk_without_room_is_refused_before_a_byte_is_asked_for(tmp_path):
    mirror = Mirror()
    with served(mirror) as url:
        wanted = Archive(url=url, sha256="0" * 64, bytes=1 << 60)
        with pytest.raises(StorageError, match="About 1,152,921,504.61 GB are needed in"):
            fetch(wanted, tmp_path, PATIENCE)
    assert mirror.offsets == []


def test_a_disk_that_fills_up_exits_74_and_what_is_there_is_gone_on_with(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with served(Mirror()) as url:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"dac\.tar\.gz: File too large"):
                fetch(archive(url), tmp_path, PATIENCE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    mirror = Mirror()
    with served(mirror) as url:
        assert fetch(archive(url), tmp_path, PATIENCE).read_bytes() == FILE
    assert 0 < mirror.offsets[0] <= 500_000


def test_a_file_that_is_there_is_checked_and_not_fetched(tmp_path):
    (tmp_path / "dac.tar.gz").write_bytes(FILE)
    fetch(archive("http://127.0.0.1:9/never"), tmp_path)
    (tmp_path / "dac.tar.gz").write_bytes(FILE[::-1])
    with pytest.raises(DataError, match="is not the file in the configuration"):
        fetch(archive("http://127.0.0.1:9/never"), tmp_path)


def test_a_file_address_is_copied(tmp_path):
    (tmp_path / "a file").write_bytes(FILE)
    assert fetch(archive(f"file://{tmp_path}/a%20file"), tmp_path / "out").read_bytes() == FILE
