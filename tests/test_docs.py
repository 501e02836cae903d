"""The documentation site builds without a warning, has every page, and fetches nothing."""

import html
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

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
    page = (site / "checkpoints.html").read_text()
    assert "<code>dlrm_adahessian/checkpoint/reader.py</code>" in page


def test_formulas_need_no_script(site):
    page = (site / "mathematics.html").read_text()
    assert "<math" in page
    assert "arithmatex" not in page


def test_the_picture_of_the_architecture_shows_the_layers_in_their_order():
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", (ROOT / "docs" / "img" / "architecture.svg").read_text())
    expected = [
        text for layer in pictures.layers() for name in layer for text in (name, pictures.purpose(name))
    ]
    assert [html.unescape(text) for text in drawn][: len(expected)] == expected, "run make pictures"


def test_the_page_of_licenses_has_every_package_that_is_required():
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    page = (ROOT / "docs" / "licenses.md").read_text()
    stated = dict(re.findall(r"^\| ([a-z0-9-]+) \| (.+) \|$", page, re.MULTILINE))
    names = {re.match(r"[a-z0-9-]+", line)[0] for line in required}
    assert names <= stated.keys()
    assert stated["numpy"].startswith("BSD-3-Clause")
    assert all(stated[name] != "not stated" for name in names)
