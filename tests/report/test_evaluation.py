"""The report of an evaluation."""

import html
import os
import pathlib
import re
import shutil

import numpy as np

from tests.evaluation.jobs import ROWS


def test_the_report_shows_everything_and_needs_no_network(place, both):
    names = ("day", "C9", "C3.band", "I7", "calibration", "file")
    found = both("--slices", *names, "--report", place / "report.html")
    text = (place / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", text)
    for name in ("hybrid", "adagrad", *names):
        assert name in text
    for model in found["models"]:
        assert f"{model['auc']:.5f}" in text
    rate = found["base_rate"]  # whose entropy is the log loss of the constant prediction
    assert f"<td>{-rate * np.log(rate) - (1 - rate) * np.log(1 - rate):.5f}</td></tr>" in text
    for part in found["slices"]["C9"]["slices"]:
        assert html.escape(part["slice"]) in text
    for identifier in ("plot-reliability", "plot-curves", "figures", "calibration", "curves", "origin"):
        assert f'id="{identifier}"' in text
    # The last line of each table of slices has all samples.
    assert text.count(
        f"<td>all</td><td></td><td>{ROWS:,}</td><td>{round(found['base_rate'] * ROWS):,}</td>"
    ) == len(names)


def test_names_of_files_are_escaped_in_the_report(place, evaluate, tmp_path):
    odd = tmp_path / "<script>alert(1)<.txt"
    odd.write_bytes(b"".join((place / "rows.txt").read_bytes().splitlines(keepends=True)[:200]))
    evaluate(
        "--run", place / "hybrid", "--data-path", odd, "--slices", "file", "--report", tmp_path / "r.html"
    )
    assert "<script" not in (tmp_path / "r.html").read_text()


def test_no_name_harms_the_report(place, evaluate, tmp_path):
    lines = (place / "rows.txt").read_bytes().splitlines(keepends=True)
    run = tmp_path / "_under$x_{$"
    shutil.copytree(place / "hybrid", run)
    odd = [
        os.fsdecode(tmp_path.as_posix().encode() + b"/" + name)
        for name in (b"a$x_{$", b"\xff", b"a\nerror: fake")
    ]
    for name in odd:
        with pathlib.Path(name).open("wb") as file:
            file.write(b"".join(lines[:100]))
    out = evaluate("--run", run, "--data-path", *odd, "--slices", "file", "--report", tmp_path / "r.html")
    assert "a\\nerror: fake" in out
    assert "\nerror" not in out
    text = (tmp_path / "r.html").read_text()
    assert text.count("</span> _under$x_{$</span>") == 3, "legends of calibration, curves, and slices"
    for shown in ("a$x_{$", "\\udcff", "a\\nerror: fake"):
        assert len(re.findall(rf">\s*{re.escape(shown)}\s*</text>", text)) == 1


def test_text_and_report_judge_alike(place, evaluate, both):
    found = both("--report", place / "report.html")
    text = evaluate("--data-path", place / "both.parquet")
    (difference,) = found["differences"]
    judged = (
        "no significant difference"
        if difference["p_adjusted"] >= 0.05
        else "worse"
        if difference["logloss"] > 0
        else "better"
    )
    assert f": {judged}" in text
    beginning = {
        "no significant difference": "adagrad vs. hybrid: no significant difference in log loss (",
        "worse": "adagrad loses to hybrid in log loss by ",
        "better": "adagrad beats hybrid in log loss by ",
    }
    card = f'<li class="{judged.replace(" ", "-")}">{beginning[judged]}'
    assert card in (place / "report.html").read_text()
