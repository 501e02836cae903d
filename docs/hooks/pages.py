"""MkDocs hook: the site also shows files that lie outside docs/, and links between all of them work.

A link to a file that the site does not show becomes the file's path.
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {
    "README.md": "index.md",
    "data/README.md": "data.md",
    "EXPERIMENTS.md": "project/experiments.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "docs/adr": "adr/0010-rooms.md",
    "examples": "examples/index.md",
}
"""Pages of the site by the path of their source in the repository, as far as that lies outside docs/."""
SHOWN |= {f"examples/{file.name}": f"examples/{file.stem}.md" for file in (ROOT / "examples").glob("*.py")}
_SOURCE = {page: source for source, page in SHOWN.items() if not (ROOT / "docs" / page).exists()}
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the pages that lie outside docs/."""
    for source, page in SHOWN.items():
        path = ROOT / source
        if page.startswith("examples/") and path.suffix == ".py":
            files.append(File.generated(config, page, content=_example(path)))
        elif path.is_file() and page != "index.md":
            files.append(File.generated(config, page, content=path.read_text(encoding="utf-8")))
    files.append(File.generated(config, "examples/index.md", content=_list_of_examples()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page with links that work in the site."""
    site_path = page.file.src_uri
    source = _SOURCE.get(site_path, f"docs/{site_path}")

    def linked(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        shown = SHOWN.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if shown is not None:
            return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(site_path) or '.')}{anchor})"
        return f"`{path}`" if text.strip("`") in (path, posixpath.basename(path)) else f"{text} (`{path}`)"

    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(linked, part) for part in parts)


def _example(path: Path) -> str:
    """Return the page of an example: what its docstring says, and the source."""
    source = path.read_text(encoding="utf-8")
    return f"# {path.name}\n\n{_docstring(path)}\n\n```python\n{source}```\n"


def _list_of_examples() -> str:
    examples = sorted((ROOT / "examples").glob("*.py"))
    lines = [
        f"| [{path.name}](examples/{path.name}) | {_docstring(path).splitlines()[0]} |" for path in examples
    ]
    return "\n".join(
        ["# Examples", "", "Each file runs as it is.", "", "| file | what it shows |", "|---|---|", *lines]
    )


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem
