"""Files that are no text, known by their first bytes, and the way that each can be read nevertheless."""

from shlex import quote

from dlrm_adahessian.errors import DataError

_PIPE = "{0} | ... --data-path -"
_SCHEMA = "describe its columns with --schema FILE.toml, see docs/own-data.md"
_FOREIGN = (
    (
        (b"PK\x03\x04", b"PK\x05\x06"),
        "a zip archive",
        f"pipe in one of the files that unzip -l lists: {_PIPE.format('unzip -p {file} MEMBER')}",
    ),
    ((b"\x04\x22\x4d\x18",), "compressed with lz4", f"unpack it: {_PIPE.format('lz4 -dc {file}')}"),
    ((b"7z\xbc\xaf\x27\x1c",), "a 7z archive", f"unpack it: {_PIPE.format('7z x -so {file} MEMBER')}"),
    ((b"PAR1",), "a parquet file", _SCHEMA),
    ((b"ARROW1", b"ORC"), "a table in columns, of Arrow or ORC", "write it as parquet or as text"),
    ((b"\x93NUMPY",), "an array of NumPy", "write its rows as text"),
    (
        (b"\xff\xfe", b"\xfe\xff"),
        "text in UTF-16",
        f"convert it: {_PIPE.format('iconv -f UTF-16 -t UTF-8 {file}')}",
    ),
    (
        (b"<!DOCTYPE", b"<!doctype", b"<html"),
        "a web page",
        "see what the download answered, and fetch it again",
    ),
    (
        (b"version https://git-lfs",),
        "a pointer of Git LFS to a file",
        "fetch the file itself with git lfs pull",
    ),
)


def refuse_foreign(head: bytes, name: str) -> None:
    """Refuse a file of another format.

    Args:
        head: its first bytes, 32 or more where there are as many.
        name: what messages call it.

    Raises:
        DataError: it is one of those known here; the message says which, and what to do.
    """
    for magics, kind, remedy in _FOREIGN:
        if head.startswith(magics):
            raise DataError(f"{name} must be text and is {kind}; {remedy.format(file=quote(name))}")
