"""Valid and invalid addresses in the configuration."""

import re

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.data.download.config import Archive


def test_one_address_or_a_list_is_tried_in_order():
    for url, urls in (
        ("http://a/x", ("http://a/x",)),
        (("file:///x", "http://b/y"), ("file:///x", "http://b/y")),
    ):
        assert Archive(url=url, sha256="0" * 64, bytes=1).urls == urls


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ('url = "ftp://host/x"', "begins with https, http, file"),
        ('url = "/mnt/x"', "begins with https, http, file"),
        ('url = "http:///x"', "names a host"),
        ('url = "file://mnt/x"', "three slashes"),
        ("url = []", "at least 1"),
        ('url = "http://host/\u00e9"', r"printable ASCII .* %C3%A9"),
        ('url = "http://\u00e9/x"', "printable ASCII"),
        ('url = "http://host/a b"', "printable ASCII"),
        ('url = "http://a..b/x"', "names a host"),
        (f'url = "http://{"a" * 64}/x"', "names a host"),
        ('url = "http://host:99999/x"', "Port out of range"),
        ('url = "file:///tmp/a%00b"', "zero byte"),
        ('url = "http://host/x"\nname = "../x"', "pattern"),
        ('url = "http://host/x"\nname = "a\\u001b[2Jb"', "printable"),
        ('url = "http://host/x"\nname = "a\\u202eb"', "printable"),
    ],
)
def test_a_mirror_that_is_no_address_is_a_usage_error(line, rule, tmp_path, capsys):
    (tmp_path / "mirror.toml").write_text(f'{line}\nsha256 = "{"0" * 64}"\nbytes = 5\n')
    assert main(["download", "--config", str(tmp_path / "mirror.toml"), "--out", str(tmp_path)]) == 64
    assert re.search(rule, capsys.readouterr().err)
