"""Checks of evaluation requests."""

import shutil

import pytest


def test_results_never_replace_what_is_read(place, evaluate, both, tmp_path):
    both()
    rows = tmp_path / "rows.txt"
    shutil.copyfile(place / "rows.txt", rows)
    run = ["--run", place / "hybrid", "--data-path", rows]
    for wrong in (
        ["--out", rows],
        ["--report", tmp_path / "." / "rows.html", "--out", tmp_path / "rows.html"],
    ):
        assert "is also used by another flag" in evaluate(*run, *wrong, code=64)
    old = place / "both.parquet"
    assert "is also used" in evaluate(*run, "--against", old, "--out", old, code=64)
    for flag, wrong, kind in (
        ("--out", tmp_path, "a folder"),
        ("--out", "/dev/stdout", "a link"),
        ("--out", "/dev/null", "a pipe or a device"),
    ):
        assert f"{wrong} is {kind}" in evaluate(*run, flag, wrong, code=64)
    assert "--report" in evaluate(*run, "--report", rows / "r.html", code=74)
    assert rows.read_bytes() == (place / "rows.txt").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data-path", "ROWS"], "Pass a model"),
        (["--run", "RUN"], "Pass it with --data-path"),
        (["--run", "RUN", "--data-path", "BOTH"], "Leave out --run"),
        (["--data-path", "BOTH", "--out", "x"], "Leave out --run, --out"),
        (["--data-path", "BOTH", "ROWS"], "samples or predictions"),
        (["--data-path", "BOTH", "--part", "test"], "Leave out --run"),
        (["--data-path", "BOTH", "--best"], "Leave out --run"),
        (["--data-path", "BOTH", "--bad-rows", "quarantine"], "Leave out --run"),
        (["--run", "RUN", "--stdin", "--part", "test"], "--stdin requires exactly one --run"),
        (["--data-path", "BOTH", "--slices", "C1"], "requires the columns"),
        (["--run", "RUN", "--data-path", "ROWS", "--against", "ROWS"], "ROWS is not one"),
        (["--run", "RUN", "--data-path", "ROWS", "--bad-rows", "quarantine"], "with --out"),
        (["--run", "RUN", "--data-path", "ROWS", "ROWS", "--part", "test"], "ROWS contains other raw data"),
        (["--run", "RUN", "--data-path", "CACHE", "ROWS"], "evaluated alone"),
        (["--run", "RUN", "--data-path", "ROWS", "--report", "x.pdf"], r".html"),
        (["--run", "RUN", "--stdin", "--out", "x"], "--stdin requires exactly one --run"),
        (["--run", "RUN", "RUN", "--stdin"], "--stdin requires exactly one --run"),
    ],
)
def test_what_does_not_go_together_is_refused(place, both, evaluate, arguments, told):
    if not (place / "both.parquet").exists():
        both()
    cache = min((place / "cache").glob("criteo-*[0-9a-f]"))
    names = {
        "ROWS": place / "rows.txt",
        "RUN": place / "hybrid",
        "BOTH": place / "both.parquet",
        "CACHE": cache,
    }
    err = evaluate(*(names.get(a, a) for a in arguments), code=64)
    assert told.replace("ROWS", str(place / "rows.txt")) in err
