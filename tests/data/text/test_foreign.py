"""Files of other formats, written by other programs: the message names the format and the remedy."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlrm_adahessian.errors import DataError
from tests.data.text.reading import TEXT, read_all

LINE = b"1\t2\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train.txt", LINE)
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"label": [0, 1]}), file)
    return file.getvalue()


def arrow() -> bytes:
    file = io.BytesIO()
    table = pa.table({"label": [0, 1]})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def numpy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


def compressed(codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as file:
        file.write(LINE)
    return sink.getvalue().to_pybytes()


FOREIGN = {
    "zip": (zipped(), r"a zip archive\. .* unzip -p 'the rows' MEMBER \| \.\.\. --data-path -"),
    "lz4": (compressed("lz4"), r"lz4\. .* lz4 -dc 'the rows' \|"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", r"a 7z archive\. .* 7z x -so 'the rows'"),
    "parquet": (parquet(), r"a parquet file\. Describe its columns with --schema .*docs/own-data\.md"),
    "arrow": (arrow(), r"an Arrow or ORC file\. Write it as parquet"),
    "numpy": (numpy(), "a NumPy array"),
    "UTF-16": (LINE.decode().encode("utf-16"), r"text in UTF-16\. .* iconv -f UTF-16"),
    "web page": (b"<!DOCTYPE html><html>404</html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_of_another_format_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    data, told = FOREIGN[kind]
    (tmp_path / "the rows").write_bytes(data)
    with pytest.raises(DataError, match=f"the rows must be plain text, but is .*{told}") as caught:
        read_all(tmp_path / "the rows")
    assert caught.value.exit_code == 65


@pytest.mark.parametrize("data", [LINE, b"\t\t\n", b"-1\t", b"\xef\xbb\xbf1\t", TEXT])
def test_text_is_not_taken_for_another_format(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(data)
    assert read_all(tmp_path / "rows") == {"rows": data}
