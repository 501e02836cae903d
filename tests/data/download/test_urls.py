"""Redirects of addresses, and the parts of an address that messages show."""

import re
from pathlib import Path

import pytest

import dlrm_adahessian
from dlrm_adahessian.data.download.fetch import fetch
from dlrm_adahessian.data.download.urls import UselessMirrorError, opened, shown
from dlrm_adahessian.errors import NoInputError
from tests.data.download.mirror import FILE, PATIENCE, Mirror, archive, files, served


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/dac.tar.gz"])
def test_a_redirect_out_of_http_is_refused(location, tmp_path):
    mirror = Mirror(status=302, location=location)
    with served(mirror) as url, pytest.raises(NoInputError, match="not allowed|unknown url type"):
        fetch(archive(url), tmp_path, PATIENCE)
    assert len(mirror.offsets) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize("location", ["http://a..b/x", "http://[::1/x"])
def test_a_redirect_to_what_is_no_address_ends_with_that_mirror(location, tmp_path):
    mirror = Mirror(status=302, location=location)
    with served(mirror) as url, pytest.raises(NoInputError, match="redirects to an invalid address"):
        fetch(archive(url), tmp_path, PATIENCE)
    assert len(mirror.offsets) == 1


def test_a_redirect_within_http_is_followed(tmp_path):
    with served(Mirror()) as url, served(Mirror(status=302, location=url)) as first:
        assert fetch(archive(first), tmp_path, PATIENCE).read_bytes() == FILE


def test_nothing_else_in_the_program_opens_addresses():
    package = Path(dlrm_adahessian.__file__).parent
    network = re.compile(
        r"^\s*(?:import|from) (?:urllib\.request|http|ftplib|requests|urllib3|httpx)\b", re.MULTILINE
    )
    found = {path.parent.name for path in package.rglob("*.py") if network.search(path.read_text())}
    assert found == {"download"}


@pytest.mark.parametrize("offset", [0, 7, len(FILE), len(FILE) + 5])
def test_a_file_is_read_from_an_offset_on_and_from_its_end_at_most(offset, tmp_path):
    (tmp_path / "a file").write_bytes(FILE)
    with opened(f"file://{tmp_path}/a%20file", offset, 1) as transfer:
        assert (transfer.start, transfer.total) == (min(offset, len(FILE)), len(FILE))
        assert transfer.read(100) == FILE[offset : offset + 100]


def test_a_part_from_another_offset_is_not_the_file():
    late = Mirror()
    late.answer = lambda request: (
        request.send_response(206),
        request.send_header("Content-Range", f"bytes 9-99/{len(FILE)}"),
        request.end_headers(),
    )
    with (
        served(late) as url,
        pytest.raises(UselessMirrorError, match="did not send the file from byte 8 on"),
        opened(url, 8, 5),
    ):
        pass


def test_what_may_be_secret_in_an_address_is_not_shown():
    assert shown("https://user:word@host:8080/dac.tar.gz?key=secret#part") == "https://host:8080/dac.tar.gz"
    assert shown("file:///data/dac.tar.gz") == "file:///data/dac.tar.gz"
