"""What the commands print."""

import logging
import subprocess
import sys

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands.output import PrintableFormatter
from dlrm_adahessian.runtime.printable import printable


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


def test_messages_and_tracebacks_of_the_log_are_printable():
    try:
        raise ValueError("\x1b[31m")
    except ValueError:
        record = logging.LogRecord(
            "x", logging.INFO, "x", 1, "prepared %s", ("\x1b]0;title\x07",), sys.exc_info()
        )
    text = PrintableFormatter("%(message)s").format(record)
    assert text.startswith("prepared \\x1b]0;title\\x07\nTraceback")
    assert text.endswith("ValueError: \\x1b[31m")


def test_the_command_line_logs_odd_paths_without_their_escapes(tmp_path):
    cache = tmp_path / "\x1b[31mcache"
    command = [sys.executable, "-m", "dlrm_adahessian", "prepare", "--dataset", "synthetic", "--rows", "7000"]
    done = subprocess.run(
        [*command, "--data.cache-dir", str(cache)], capture_output=True, text=True, check=True
    )
    assert "preparing rows in" in done.stderr
    assert "\\x1b[31mcache" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
