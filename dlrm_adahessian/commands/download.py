"""`download`: the archive of rows, from a mirror that the user names."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.data.download.config import Archive
from dlrm_adahessian.data.text.sources import RAW
from dlrm_adahessian.runtime.settings import read_toml, settings, validated
from dlrm_adahessian.runtime.terminal import say


@settings
class DownloadConfig:
    """Fetch the archive of rows from a mirror that a file names; no mirror comes with the program."""

    config: Path
    """TOML file: url (one or a list, tried in order), sha256, bytes, and name (default dac.tar.gz)."""
    out: Path = RAW
    """Folder to put it in; the default is where training looks. Interrupted, the same command goes on."""


def download(arguments: Sequence[str]) -> int:
    """Fetch the archive of rows from a mirror that you name."""
    args = parsed(DownloadConfig, arguments, prog="python -m dlrm_adahessian download")
    archive = validated(Archive, read_toml(args.config))
    from dlrm_adahessian.data.download.fetch import fetch

    say(f"{fetch(archive, args.out)}")
    return 0
