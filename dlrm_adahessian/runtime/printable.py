"""Text for a terminal or a page, whatever the names of files in it."""


def printable(text: str) -> str:
    """Return text in which what no terminal should act on, as escapes in the name of a file, is written out; lines stay."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def printable_name(name: str) -> str:
    """Return a name on one line; see `printable`."""
    return printable(name).replace("\n", "\\n")
