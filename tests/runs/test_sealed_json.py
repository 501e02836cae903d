"""A changed sealed JSON file raises an error."""

import json
from pathlib import Path

import pytest

from dlrm_adahessian.runs.sealed import DamagedFolderError, fingerprint
from dlrm_adahessian.runs.sealed_json import read_sealed_json, write_sealed_json

SAID = {"step": 3, "values": [0.1, -1e300], "text": "ü"}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", SAID)
    assert read_sealed_json(tmp_path / "a.json") == SAID
    assert json.loads((tmp_path / "a.json").read_text()) == {**SAID, "fingerprint": fingerprint(SAID)}


def test_a_change_of_any_bit_that_says_something_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed_json(path, SAID)
    content = path.read_bytes()
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            assert read_sealed_json(path) == SAID  # only white space
        except DamagedFolderError as error:
            assert str(path) in str(error)  # noqa: PT017, either is right


@pytest.mark.parametrize("text", ["[1]", "3", "", "{}", '{"step": 3}', "{" * 100_000])
def test_what_is_no_sealed_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DamagedFolderError, match="a.json"):
        read_sealed_json(tmp_path / "a.json")


def test_a_file_larger_than_its_kind_is_not_read(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", SAID)
    size = (tmp_path / "a.json").stat().st_size
    assert read_sealed_json(tmp_path / "a.json", size) == SAID
    with pytest.raises(DamagedFolderError, match="too large for a file of its kind"):
        read_sealed_json(tmp_path / "a.json", size - 1)
