"""Recognize files that are not text by their first bytes, and say how each can be read anyway."""

from shlex import quote

from dlrm_adahessian.errors import DataError

_PIPE = "{0} | ... --data-path -"
_SCHEMA = "Describe its columns with --schema FILE.toml; see docs/own-data.md."
_FOREIGN = (
    (
        (b"PK\x03\x04", b"PK\x05\x06"),
        "a zip archive",
        f"Pipe in one of the files that unzip -l lists: {_PIPE.format('unzip -p {file} MEMBER')}",
    ),
    ((b"\x04\x22\x4d\x18",), "compressed with lz4", f"Decompress it: {_PIPE.format('lz4 -dc {file}')}"),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z archive", f"Extract it: {_PIPE.format('7z x -so {file} MEMBER')}"),
    ((b"PAR1",), "a parquet file", _SCHEMA),
    ((b"ARROW1", b"ORC"), "an Arrow or ORC file", "Write it as parquet or as text."),
    ((b"\x93NUMPY",), "a NumPy array", "Write its rows as text."),
    (
        (b"\xff\xfe", b"\xfe\xff"),
        "text in UTF-16",
        f"Convert it: {_PIPE.format('iconv -f UTF-16 -t UTF-8 {file}')}",
    ),
    (
        (b"<!DOCTYPE", b"<!doctype", b"<html"),
        "a web page",
        "Check what the download returned, and download it again.",
    ),
    (
        (b"version https://git-lfs",),
        "a Git LFS pointer",
        "Fetch the file itself with git lfs pull.",
    ),
)


def refuse_foreign(head: bytes, name: str) -> None:
    """Raise if the first bytes are those of a known format other than text.

    Args:
        head: first bytes of the file, at least 32 unless the file is shorter.
        name: name of the file in messages.

    Raises:
        DataError: the file has a known format; the message names it and says what to do.
    """
    for magics, kind, remedy in _FOREIGN:
        if head.startswith(magics):
            raise DataError(f"{name} must be plain text, but is {kind}. {remedy.format(file=quote(name))}")
