"""What to fetch, and from where. Imports no torch, and no network."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

SCHEMES = ("https", "http", "file")


def _known_scheme(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"a mirror is an address that begins with {', '.join(SCHEMES)}, got {url!r}")
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise ValueError(f"a file has three slashes before its path, file:///folder/file, got {url!r}")
    if parts.scheme != "file" and not parts.hostname:
        raise ValueError(f"a mirror names a host, got {url!r}")
    return url


Url = Annotated[str, AfterValidator(_known_scheme)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Archive:
    """One file, the same bytes on every mirror."""

    url: Url | tuple[Url, ...] = Field(min_length=1)
    """Addresses of the file, tried in this order."""
    sha256: str = Field(pattern="^[0-9a-fA-F]{64}$")
    """Of the whole file."""
    bytes: int = Field(ge=1)
    """Size of the whole file."""
    name: str = Field(default="dac.tar.gz", pattern=r"^[^./\x00][^/\x00]*$")
    """What it is called in the folder."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses in order."""
        return (self.url,) if isinstance(self.url, str) else self.url
