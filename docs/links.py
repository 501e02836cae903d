"""Hook of MkDocs: a link from a page to a file outside docs/, which the site does not have, becomes the file's name."""

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page with such links replaced."""
    depth = page.file.src_uri.count("/") + 1

    def named(link: re.Match[str]) -> str:
        leads_out = link[2].count("../") >= depth
        return f"{link[1]} (`{link[2].replace('../', '')}`)" if leads_out else link[0]

    return _OUTSIDE.sub(named, markdown)
