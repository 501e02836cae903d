"""What to fetch, and from where. Imports no torch, and no network."""

from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field

from dlrm_adahessian.runtime.settings import settings

SCHEMES = ("https", "http", "file")


def _known_scheme(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"a mirror is an address that begins with {', '.join(SCHEMES)}, got {url!r}")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ValueError(f"a file has three slashes before its path, file:///folder/file, got {url!r}")
    if parts.scheme == "file" and "\x00" in unquote(parts.path):
        raise ValueError(f"the path of a file has no zero byte, got {url!r}")
    if parts.scheme != "file":
        _require_web_address(url)
    return url


def _require_web_address(url: str) -> None:
    """Refuse what HTTP cannot ask for; raises `ValueError`, of a port that is none too."""
    if not (url.isascii() and url.isprintable() and " " not in url):
        raise ValueError(
            "an address is printable ASCII without spaces; write other characters of its path as in %C3%A9, "
            f"of its host as in xn--bcher-kva.de, got {url!r}"
        )
    parts = urlsplit(url)
    labels = (parts.hostname or "").removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(f"a mirror names a host, whose parts have 1 to 63 characters, got {url!r}")
    _ = parts.port


def _printable(name: str) -> str:
    if not name.isprintable():  # it is shown in terminals
        raise ValueError(f"the name of a file has printable characters only, got {name!r}")
    return name


Url = Annotated[str, AfterValidator(_known_scheme)]
Name = Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$"), AfterValidator(_printable)]


@settings
class Archive:
    """One file, the same bytes on every mirror."""

    url: Url | tuple[Url, ...] = Field(min_length=1)
    """Addresses of the file, tried in this order."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """Of the whole file."""
    bytes: int = Field(ge=1)
    """Size of the whole file."""
    name: Name = "dac.tar.gz"
    """What it is called in the folder."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses in order."""
        return (self.url,) if isinstance(self.url, str) else self.url
