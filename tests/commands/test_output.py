"""What the commands print."""

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands.output import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\nlines é 日本", "plain\nlines é 日本"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("back\rspace\x08\x9b", "back\\rspace\\x08\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_that_a_terminal_acts_on_is_printed(text, shown):
    assert printable(text) == shown


def test_a_complaint_names_odd_paths_without_their_escapes(capsys, tmp_path):
    code = main(["evaluate", "--run", str(tmp_path / "\x1b[31mrun"), "--data-path", "x", "--out", "y"])
    told = capsys.readouterr().err
    assert code == 66
    assert "\\x1b[31mrun" in told
    assert "\x1b" not in told
