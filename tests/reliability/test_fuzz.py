"""The comparison of the fuzzer, without the fuzzer."""

from pathlib import Path

import pytest

from dlrm_adahessian.data.text.bad_lines import BadLines
from tests.reliability import fuzz


def test_the_first_inputs_pass_in_all_blocks_and_with_and_without_labels(tmp_path: Path) -> None:
    fuzz.begin(tmp_path)
    assert len({path.read_bytes()[0] for path in tmp_path.iterdir()}) == 8
    fuzz.replay(str(tmp_path))
    fuzz.check(b"")


def test_a_parser_that_loses_a_byte_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz.begin(tmp_path)
    real = BadLines.reject
    monkeypatch.setattr(BadLines, "reject", lambda self, raw, explain: real(self, raw[:-1], explain))
    with pytest.raises(AssertionError, match="parser and oracle differ"):
        fuzz.replay(str(tmp_path))
