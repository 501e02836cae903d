"""The report of a comparison."""

import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from dlrm_adahessian.compare.summary import runs_table, summarize
from dlrm_adahessian.report.comparison import headline, verdict, write_report


def test_the_report_escapes_names(study, tmp_path):
    hostile = "<script>alert(1)</script>"
    first, second = study.contenders
    renamed = replace(study, contenders=[first, replace(second, name=hostile)])
    write_report(tmp_path, summarize(renamed), runs_table(renamed))
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_terminal_and_report_say_the_same_sentences(study, tmp_path):
    found = summarize(study)
    write_report(tmp_path, found, runs_table(study))
    sentences = [*headline(found), *verdict(found)]
    assert len(sentences) == 4  # of progressive and test samples
    for name in ("report.html", "report.md"):
        assert all(sentence in (tmp_path / name).read_text() for sentence in sentences)


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_report_opens_in_a_browser_without_network(finished, tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{finished}/study/report.html"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    plots = ("forest", "quality", "sensitivity", "bands", "curvature", "cost")
    for part in ("verdict", "table", *(f"plot-{name}" for name in plots)):
        assert f'id="{part}"' in done.stdout
    assert done.stdout.count("</svg>") == len(plots)
    assert "hybrid against adagrad" in done.stdout
    links = re.findall(r'\b(?:src|href)="([^"]*)"', done.stdout)
    assert all(link.startswith(("#", "data:")) for link in links)
