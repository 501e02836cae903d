"""The report of a comparison."""

import csv
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.commands.compare import report
from dlrm_adahessian.compare.results import Trials
from dlrm_adahessian.compare.study import Contender, Run, Study
from dlrm_adahessian.compare.summary import runs_table, summarize
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.report.comparison import curvature_sentences, verdicts, write_report, write_runs
from dlrm_adahessian.train.results import Predicted

pytestmark = pytest.mark.slow

FORMULAS = {
    **{"=1+1": "'=1+1", "+1": "'+1", "-1+cmd": "'-1+cmd", "@SUM(A1)": "'@SUM(A1)"},
    **{"\t=1": r"\t=1", "\r=1": r"\r=1", "plain": "plain", "'quoted": "'quoted", "x=1": "x=1"},
}
"""Texts, and what results.csv has instead, which a spreadsheet may open."""


def test_no_name_is_markup_a_formula_or_an_escape_for_the_terminal(study, tmp_path):
    first, second = study.contenders
    hostile = "<script>alert(1)</script>|b\nc \x1b[31m"
    renamed = replace(study, contenders=[first, replace(second, name=hostile)])
    runs = pd.concat([runs_table(renamed)] * len(FORMULAS), ignore_index=True)
    runs["folder"] = [list(FORMULAS)[row % len(FORMULAS)] for row in runs.index]
    write_runs(tmp_path, runs)
    write_report(tmp_path, summarize(renamed), runs)
    page, text = ((tmp_path / f"report.{form}").read_text() for form in ("html", "md"))
    for written in (page, text):
        assert "<script" not in written
        assert "&lt;script>" in written.replace("&gt;", ">")
    assert "\x1b" not in text
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert {row[1].strip() for row in rows} >= {first.name, r"&lt;script>alert(1)&lt;/script>\|b\nc \x1b[31m"}
    with (tmp_path / "results.csv").open(newline="") as file:
        found = [row["folder"] for row in csv.DictReader(file)]
    assert found[: len(FORMULAS)] == list(FORMULAS.values())


def test_terminal_and_report_say_the_same_sentences(study, tmp_path):
    sentences = report(study, tmp_path)
    assert len(sentences) == 3  # progressive samples, test samples, and what the intervals cover
    assert ["progressive log loss" in sentences[0], "test log loss" in sentences[1]] == [True, True]
    assert "one seed says nothing about seed-to-seed variation" in sentences[2]
    for name in ("report.html", "report.md"):
        assert all(sentence in (tmp_path / name).read_text() for sentence in sentences)


def test_an_optimizer_whose_trials_all_diverged_is_named_first(study):
    found = summarize(study)
    lost = Trials(count=2, diverged=2, near_best=0, best_logloss=None, median_logloss=None)
    second = list(found.optimizers)[1]
    entrants = {**found.optimizers, second: replace(found.optimizers[second], trials=lost)}
    said = verdicts(replace(found, optimizers=entrants))
    assert (said[0].judged, len(said)) == ("caution", len(verdicts(found)) + 1)
    assert f"All 2 trials of {second} diverged, so nothing was tuned" in said[0].sentence


def test_the_report_names_the_matrix_of_the_curvature(study, tmp_path):
    found = summarize(study)
    assert curvature_sentences(found) == []  # first-order optimizers
    first, second = found.optimizers
    changed = replace(
        found.optimizers[second],
        curvature_of=Parts(weights="hessian", pooled="gauss_newton"),
        settings={"curvature": "gauss_newton"},
    )
    found = replace(found, optimizers={first: found.optimizers[first], second: changed})
    told = (
        f"{second} uses the diagonal of the Hessian at the weights and of the Gauss-Newton matrix at the pooled "
        "embeddings (curvature gauss_newton)."
    )
    assert curvature_sentences(found) == [told]
    write_report(tmp_path, found, runs_table(study))
    assert all(told in (tmp_path / name).read_text() for name in ("report.md", "report.html"))


@pytest.mark.parametrize(("at_once", "head", "shown", "told"), [
    (1, "ms per step", "step_ms_median", "over the final runs, which trained one at a time."),
    (3, "ms per step, alone", "step_ms_apart", "that each optimizer trained alone after all runs."),
])  # fmt: skip
def test_the_report_shows_step_times_of_runs_that_nothing_slowed(at_once, head, shown, told, study, tmp_path):
    found = summarize(study)
    contended = {"step_ms_median": 7.0, "step_ms_apart": 7.0, "waited_share": 0.25}
    timed = {
        name: replace(entrant, train={**entrant.train, **contended, shown: ms})
        for (name, entrant), ms in zip(found.optimizers.items(), (2.0, 5.0), strict=True)
    }
    found = replace(found, optimizers=timed, config=replace(found.config, parallel=at_once))
    write_report(tmp_path, found, runs_table(study))
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    assert f"| {head} | times {found.first} |" in text
    assert page.count(f"<th>{head}</th>") == 2, "in the tables of results and of cost"
    assert all(told in written for written in (text, page))
    assert [text.count(f"| {ms} | {ratio} |") for ms, ratio in (("2.00", "1.00"), ("5.00", "2.50"))] == [2, 2]
    assert page.count("<td>25%</td>") == 2
    assert not any(figure in written for figure in (" 7.00", ">7.00") for written in (text, page))


def with_finals(study: Study, change) -> Study:
    """Return a study with other final runs."""

    def changed(contender: Contender) -> Contender:
        searches = [replace(each, finals=[change(run) for run in each.finals]) for each in contender.searches]
        return replace(contender, searches=searches)

    return replace(study, contenders=[changed(contender) for contender in study.contenders])


def of_one_class(run: Run, part: str) -> Run:
    """Return a run whose samples of a part are no clicks."""
    probability = getattr(run.result, part).probability
    labels = np.zeros(len(probability), np.int8)
    summary = replace(run.summary, **{part: binary_metrics(labels, probability)})
    result = replace(run.result, summary=summary, **{part: Predicted(labels, probability)})
    return replace(run, summary=summary, result=result)


@pytest.mark.parametrize("part", ["test", "progressive"])
def test_samples_of_one_class_have_no_auc_and_all_else(part, study, tmp_path):
    found = with_finals(study, lambda run: of_one_class(run, part))
    write_report(tmp_path, summarize(found), runs_table(found))
    text, page = ((tmp_path / name).read_text() for name in ("report.md", "report.html"))
    lines = [line for line in text.splitlines() if f"| {part} |" in line]
    assert len(lines) == 3, "two optimizers and their difference"
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert [line[3] for line in cells[:2]] == ["-", "-"]
    assert cells[2][4] == "-"
    assert all(
        re.match(r"(< )?[+-]?\d", cell)
        for line, first in zip(cells, (4, 4, 5), strict=True)
        for cell in line[first:-1]
    )
    assert page.count(f'<td class="text">{part}</td><td>-</td><td>0.') == 2
    assert "nan" not in text


def test_a_comparison_that_wholly_diverged_has_a_report(study, tmp_path):
    found = with_finals(study, lambda run: replace(run, summary=None, result=None))
    assert report(found, tmp_path)
    assert "no seed finished with both" in (tmp_path / "report.html").read_text()


def test_one_seed_of_one_class_throughout_has_a_report(study, tmp_path):
    found = with_finals(study, lambda run: of_one_class(of_one_class(run, "test"), "progressive"))
    assert found.config.seeds == 1
    assert report(found, tmp_path)
    differences = json.loads((tmp_path / "summary.json").read_text())["differences"]
    assert [pair["auc"] for pair in differences] == [None, None]


def test_a_comparison_whose_first_optimizer_always_diverged_has_a_report(study, tmp_path):
    first = study.contenders[0].finals[0].config.optimizer

    def diverged(run: Run) -> Run:
        return replace(run, summary=None, result=None) if run.config.optimizer == first else run

    found = with_finals(study, diverged)
    write_report(tmp_path, summarize(found), runs_table(found))
    told = f"cannot be compared with {first}: no seed finished with both"
    assert all(told in (tmp_path / name).read_text() for name in ("report.md", "report.html"))


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_the_report_opens_in_a_browser_without_network(models, tmp_path):
    write_report(tmp_path, summarize(models), runs_table(models))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'browser'}",
    ]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", f"file://{tmp_path}/report.html"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ}
    )
    panels = {"forest": 3, "quality": 2, "sensitivity": 4, "bands": 1, "curvature": 2, "cost": 1}
    for part in ("verdict", "table", *(f"plot-{name}" for name in panels)):
        assert f'id="{part}"' in done.stdout
    assert done.stdout.count("</svg>") == sum(panels.values())
    assert re.search(r"dcnv2 (vs\.|beats|loses to) dlrm", done.stdout)
    links = re.findall(r'\b(?:src|href)="([^"]*)"', done.stdout)
    assert all(link.startswith(("#", "data:")) for link in links)
