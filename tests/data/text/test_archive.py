"""Archives: the published one, damaged ones, and hostile ones."""

import gzip
import io
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from dlrm_adahessian.errors import DataError
from tests.data.text.reading import TEXT, read_all


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=tarfile.GNU_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def bomb(kind: bytes) -> bytes:
    """Return an archive that begins with a header of 8 GiB, truncated to 64 MiB."""
    info = tarfile.TarInfo("bomb")
    info.type, info.size = kind, 1 << 33
    return gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(64 << 20), 1)


def sparse() -> bytes:
    info = tarfile.TarInfo("train.txt")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(2048)


ARCHIVE = (
    member("readme.txt", b"hello\n"),
    member("./dac", type=tarfile.DIRTYPE),
    member("dac/train.txt", TEXT),
)


@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_archive_gives_its_training_file(mode: str, tmp_path: Path) -> None:
    (tmp_path / "download").write_bytes(tar(*ARCHIVE, member("test.txt", b"x" * 10**6), mode=mode))
    assert read_all(tmp_path / "download") == {"download/train.txt": TEXT}
    assert [path.name for path in tmp_path.iterdir()] == ["download"]


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2", "w"])
def test_archive_without_the_training_file_says_what_it_holds(mode: str, tmp_path: Path) -> None:
    members = (member("license.txt", b"x"), member("dac/sample rows.txt", TEXT), member("readme.txt", b"xx"))
    (tmp_path / "sample.tar").write_bytes(tar(member("dac", type=tarfile.DIRTYPE), *members, mode=mode))
    with pytest.raises(
        DataError, match=r"; it contains license\.txt, dac/sample rows\.txt, readme\.txt\."
    ) as caught:
        read_all(tmp_path / "sample.tar")
    assert "tar xOf sample.tar 'dac/sample rows.txt' | ... --data-path -). Or pass train.txt" in str(
        caught.value
    )
    assert "Refused" not in str(caught.value)
    read = subprocess.run(
        ["tar", "xOf", "sample.tar", "dac/sample rows.txt"], cwd=tmp_path, check=True, stdout=subprocess.PIPE
    )
    assert read.stdout == TEXT


def test_plain_archive_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(tar(*ARCHIVE, mode="w")[:1_000_000])
    with pytest.raises(DataError, match="not a complete tar archive"):
        read_all(tmp_path / "data")


HOSTILE = {
    "parent": (member("../train.txt", TEXT), "leaves the folder"),
    "parent inside": (member("a/../../train.txt", TEXT), "leaves the folder"),
    "absolute": (member("/train.txt", TEXT), "leaves the folder"),
    "backslash": (member("..\\train.txt", TEXT), "leaves the folder"),
    "symbolic link": (
        member("train.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "link to '/etc/passwd'",
    ),
    "hard link": (member("train.txt", type=tarfile.LNKTYPE, linkname="readme.txt"), "link to 'readme.txt'"),
    "device": (member("train.txt", type=tarfile.CHRTYPE, devmajor=1, devminor=5), "not a plain file"),
    "pipe": (member("train.txt", type=tarfile.FIFOTYPE), "not a plain file"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_member_is_refused_and_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad, reason = HOSTILE[kind]
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "data").write_bytes(tar(member("readme.txt", b"x"), bad))
    with pytest.raises(DataError, match=f"Refused members: .*{reason}"):
        read_all(inside / "data")
    assert reason in caplog.text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "inside"]


def test_good_member_is_read_behind_a_hostile_one(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(tar(*(bad for bad, _ in HOSTILE.values()), *ARCHIVE))
    assert read_all(tmp_path / "data") == {"data/train.txt": TEXT}


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X"])
def test_header_that_fills_the_memory_is_refused(kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bomb(kind))
    tracemalloc.start()
    with pytest.raises(DataError, match="refused"):
        read_all(tmp_path / "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_sparse_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(sparse())
    with pytest.raises(DataError, match="refused"):
        read_all(tmp_path / "data")


def test_archive_of_many_members_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(tar(*(member(f"{n}.txt") for n in range(1500)), *ARCHIVE))
    with pytest.raises(DataError, match="1000 members"):
        read_all(tmp_path / "data")
