"""Safe output to a terminal."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
from hashlib import sha256

import pytest

from dlrm_adahessian.cli import main
from dlrm_adahessian.runtime.terminal import (
    PrintableFormatter,
    printable,
    printable_name,
    progress_bar,
    say_figures,
    say_judged,
)


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
    (tmp_path / "rows").write_bytes(b"rows")
    config = tmp_path / "mirror.toml"
    config.write_text(
        f'url = "file://{tmp_path}/rows"\nsha256 = "{sha256(b"rows").hexdigest()}"\nbytes = 4\n'
    )
    command = [sys.executable, "-m", "dlrm_adahessian", "download", "--config", str(config)]
    out = tmp_path / "\x1b[31mraw"
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True)
    assert "checking the sha256 of" in done.stderr
    for told in (done.stderr, done.stdout):
        assert "\\x1b[31mraw" in told
        assert "\x1b" not in told


def test_a_name_stands_on_one_line():
    assert printable_name("a\nb\x1b") == "a\\nb\\x1b"


def test_figures_are_a_line_each_or_one_document(capsys):
    found = {"rows_read": 1_234_567, "auc": 0.75, "folder": "a\x1bb"}
    say_figures(found, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "rows read                   1,234,567",
        "auc                         0.750000",
        "folder                      a\\x1bb",
    ]
    say_figures(found, as_json=True)
    assert json.loads(capsys.readouterr().out) == found


@pytest.mark.parametrize(("terminal", "title"), [(True, "rows"), (True, None), (False, "rows")])
def test_a_bar_is_shown_on_a_terminal_where_it_has_a_title(terminal, title, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", shown)
    with progress_bar(title, unit=" rows", total=4000, done=1000) as bar:
        bar.update(1000)
        hidden = bar.disable
    assert hidden == (not terminal or title is None)
    assert ("rows:  50%" in shown.getvalue() and "2.00k/4.00k" in shown.getvalue()) != hidden


JUDGED = "auc 1 \x1b better\naccuracy 2 worse\nnot better than\nlogloss 3 no significant difference"


@pytest.mark.parametrize(
    ("environment", "colored"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_a_judgment_has_its_colour_in_a_terminal_that_has_colours(environment, colored, monkeypatch):
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stdout", terminal)
        say_judged(JUDGED)
        terminal.flush()
        shown = screen.read(1000).decode().replace("\r\n", "\n")
    green, red, yellow, plain = ("\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m") if colored else [""] * 4
    assert shown == (
        f"auc 1 \\x1b {green}better{plain}\naccuracy 2 {red}worse{plain}\nnot better than\n"
        f"logloss 3 {yellow}no significant difference{plain}\n"
    )


def test_a_judgment_in_a_file_is_plain(capsys):
    say_judged(JUDGED)
    assert capsys.readouterr().out == JUDGED.replace("\x1b", "\\x1b") + "\n"
