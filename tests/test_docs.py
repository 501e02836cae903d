"""The documentation site builds without a warning, has every page, and fetches nothing."""

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
from PIL import Image

import dlrm_adahessian.errors
from dlrm_adahessian.errors import ProgramError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    navigation = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{name}"' in navigation, f"{name} is not in the navigation of mkdocs.yml"


def test_no_page_fetches_anything(site):
    fetches = re.compile(
        r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//|@import|url\([\"']?https?:"
    )
    for page in [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]:
        assert not fetches.search(page.read_text()), f"{page.relative_to(site)} fetches from elsewhere"


def test_the_api_pages_hold_the_docstrings(site):
    assert "Gradient and exact diagonal of a head" in (site / "api" / "curvature.html").read_text()


def test_the_reference_has_every_flag_and_every_preset(site):
    flags, presets = ((site / "reference" / f"{name}.html").read_text() for name in ("flags", "presets"))
    assert "--optim.dense.lr" in flags
    assert "--data.max-rejected" in flags
    for preset in (ROOT / "dlrm_adahessian" / "presets" / "optimizers").glob("*.toml"):
        assert f'<h2 id="{preset.stem}">' in presets


def test_links_lead_to_pages_of_the_site_or_name_a_file(site):
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links are those of a server
            continue
        for link in re.findall(r'<a [^>]*href="?([^"\s>#]+)', page.read_text()):
            assert re.match(r"[a-z]+:", link) or (page.parent / link).exists(), (
                f"{page.name} has a broken link to {link}"
            )
    front = (site / "index.html").read_text()
    assert all(f'="{linked}"' in front for linked in ("tutorials/laptop.html", "img/headline.svg"))
    page = (site / "checkpoints.html").read_text()
    assert "<code>dlrm_adahessian/checkpoint/reader.py</code>" in page


def test_the_table_of_exit_codes_has_every_error():
    table = (ROOT / "docs" / "commands.md").read_text().partition("## Exit codes")[2]
    codes = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE) for code in row.split(",")
    }
    errors = {kind.exit_code for kind in vars(dlrm_adahessian.errors).values() if isinstance(kind, type)}
    assert errors - {ProgramError.exit_code} <= codes


def test_formulas_need_no_script(site):
    page = (site / "mathematics.html").read_text()
    assert "<math" in page
    assert "arithmatex" not in page


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def texts(picture):
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs" / "img" / picture).read_text())
    return [html.unescape(text).replace("\xa0", " ") for text in drawn]


def test_the_picture_of_the_architecture_shows_the_layers_in_their_order(pictures):
    expected = [
        text for layer in pictures.layers() for name in layer for text in (name, pictures.purpose(name))
    ]
    assert texts("architecture.svg")[: len(expected)] == expected, "run make pictures"


def test_the_terminal_shows_the_words_of_the_tutorial(pictures):
    """Another test runs the tutorial, and compares its text with what the program prints."""
    block = re.search(r"^```text\n(.*?)^```$", pictures.TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)[1]
    verdicts = {"better", "worse", "no", "significant", "difference"}
    told, drawn = (
        [word for word in re.findall(r"[a-z]{2,}", text.lower()) if word not in verdicts]
        for text in (block, " ".join(texts("terminal-train.svg")[1:]))
    )
    assert drawn == told, "run make pictures"


@pytest.mark.parametrize("picture", ["report-top.png", "evaluation-report.png"])
def test_the_picture_of_a_report_is_not_older_than_the_report(picture, pictures):
    with Image.open(ROOT / "docs" / "img" / picture) as drawn:
        assert drawn.text[pictures.SOURCE] == pictures.report_sources(), "run make pictures"


def test_the_figures_of_the_headline_study_are_those_of_its_file():
    study = headline_study()
    readme, results = ((ROOT / name).read_text() for name in ("README.md", "docs/results.md"))
    names = {"adagrad": "Adagrad", "adagrad_momentum": "Adagrad with momentum", "adam": "Adam"}
    for against, name in names.items():
        progressive, test = (study[part, against] for part in ("progressive", "test"))
        cells = [interval(each["logloss"], 4) for each in (progressive, test)]
        accuracy = interval(progressive["accuracy"], 2, unit=100)
        assert f"| {name} | {cells[0]} | {cells[1]} | {accuracy} |" in readme
        assert f"| {name.removeprefix('Adagrad with ')} | {cells[0]} | {cells[1]} |" in results
        for part, found in (("progressive", progressive), ("test", test)):
            figures = " | ".join(interval(found[metric], 5) for metric in ("auc", "accuracy", "logloss"))
            assert f"| `{against}` | {part} | {figures} |" in results
    first = study["progressive", "adagrad"]
    lead, points = first["logloss"], first["accuracy"]
    low, high = (rounded(-end, 4)[1:] for end in reversed(lead["ci95"]))
    assert f"**{rounded(-lead['estimate'], 4)[1:]} log loss** (95% CI {low} to {high})" in readme
    low, high = (rounded(100 * end, 2)[1:] for end in points["ci95"])
    said = rounded(100 * points["estimate"], 2)[1:]
    assert f"**{said}\npercentage points of accuracy** ({low} to {high})" in readme.replace("\n> ", "\n")
    assert (
        f"leads Adagrad by {rounded(-lead['estimate'], 4)[1:]} log loss and by {said} percentage" in results
    )


def test_the_picture_of_the_headline_study_shows_its_file():
    """Positions become log losses by the ticks of the axis, so another font or size of the picture changes nothing."""
    axes, _, _ = (ROOT / "docs" / "img" / "headline.svg").read_text().partition('<g id="legend')
    ticks = re.findall(
        r'id="xtick_\d+">.*?<use [^>]*x="([\d.]+)".*?<text[^>]*>([^<]+)</text>', axes, re.DOTALL
    )
    (left, first), (right, last) = [(float(x), float(text)) for x, text in (ticks[0], ticks[-1])]

    def log_loss(x):
        return -(first + (float(x) - left) * (last - first) / (right - left)) / 1000

    drawn = axes.partition('id="LineCollection_1"')[2]
    bars = re.findall(r'<path d="M ([\d.]+) [\d.]+ \nL ([\d.]+)', drawn)
    points = re.findall(r'<use [^>]*x="([\d.]+)"', drawn)
    study = headline_study()
    assert len(points) == len(study) == 6
    for found, point, bar in zip(
        study.values(), points, bars, strict=False
    ):  # after the bars comes the line at 0
        expected = [found["logloss"]["estimate"], *found["logloss"]["ci95"]]
        assert [log_loss(point), *sorted(map(log_loss, bar))] == pytest.approx(expected, abs=1e-6)
    names = re.findall(r"<text[^>]*>hybrid vs\. ([a-z_]+)</text>", axes)
    assert set(names) == {against for _, against in study}


def headline_study():
    study = json.loads((ROOT / "benchmarks" / "results" / "tuned.json").read_text())
    return {(each["part"], each["against"]): each for each in study["differences"]}


def interval(found, digits, unit=1):
    low, high = (rounded(unit * end, digits) for end in found["ci95"])
    return f"{rounded(unit * found['estimate'], digits)} [{low}, {high}]"


def rounded(value, digits):
    """Round the decimal that a file states, halves away from zero."""
    exact = Decimal(str(round(value, 7)))
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):+}"


def test_the_page_of_licenses_has_every_package_that_is_required():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    page = (ROOT / "docs" / "licenses.md").read_text()
    stated = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", page, re.MULTILINE))
    names = {re.match(r"[a-z0-9-]+", line)[0] for line in required}
    assert names <= stated.keys()
    assert stated["numpy"].startswith("BSD-3-Clause")
    assert all(stated[name] != "not stated" for name in names)
