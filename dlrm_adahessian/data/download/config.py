"""Settings of the download: the file and its mirrors. Imports neither torch nor network modules."""

from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field

from dlrm_adahessian.runtime.settings import settings

SCHEMES = ("https", "http", "file")


def _known_scheme(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"The address of a mirror begins with {', '.join(SCHEMES)}, got {url!r}.")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ValueError(f"The address of a file has three slashes, as in file:///folder/file, got {url!r}.")
    if parts.scheme == "file" and "\x00" in unquote(parts.path):
        raise ValueError(f"The path of a file cannot contain a zero byte, got {url!r}.")
    if parts.scheme != "file":
        _require_web_address(url)
    return url


def _require_web_address(url: str) -> None:
    """Raise `ValueError` unless HTTP can request the address; an invalid port raises too."""
    if not (url.isascii() and url.isprintable() and " " not in url):
        raise ValueError(
            "An address must be printable ASCII without spaces. Write other characters of the path as in %C3%A9, "
            f"and of the host as in xn--bcher-kva.de. Got {url!r}."
        )
    parts = urlsplit(url)
    labels = (parts.hostname or "").removesuffix(".").split(".")
    if not all(0 < len(label) < 64 for label in labels):
        raise ValueError(
            f"The address of a mirror names a host, whose labels have 1 to 63 characters, got {url!r}."
        )
    _ = parts.port


def _printable(name: str) -> str:
    if not name.isprintable():  # it is shown in terminals
        raise ValueError(f"A file name must have only printable characters, got {name!r}.")
    return name


Url = Annotated[str, AfterValidator(_known_scheme)]
Name = Annotated[str, Field(pattern=r"^[^./\x00][^/\x00]*$"), AfterValidator(_printable)]


@settings
class Archive:
    """One file with the same bytes on every mirror."""

    url: Url | tuple[Url, ...] = Field(min_length=1)
    """Addresses of the file, tried in this order."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """SHA-256 of the file, in hexadecimal digits."""
    bytes: int = Field(ge=1)
    """Size of the file in bytes."""
    name: Name = "dac.tar.gz"
    """Name of the file in the output folder."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses in order."""
        return (self.url,) if isinstance(self.url, str) else self.url
