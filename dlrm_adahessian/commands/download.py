"""Implement `download`: fetch the data archive from a mirror of the user's choice."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.data.download.config import Archive
from dlrm_adahessian.data.text.sources import RAW
from dlrm_adahessian.runtime.settings import read_toml, settings, validated
from dlrm_adahessian.runtime.terminal import say


@settings
class DownloadConfig:
    """Download the data archive from a mirror. The program comes without mirrors: name one in a file.

    Run the same command again to continue after an interruption.
    """

    config: Path
    """TOML file with url (or a list, tried in order), sha256, bytes, and optionally name (default: dac.tar.gz)."""
    out: Path = RAW
    """Folder for the archive; training looks in the default one."""


def download(arguments: Sequence[str]) -> int:
    """Download the data archive from a mirror that you name."""
    args = parsed(DownloadConfig, arguments, prog="python -m dlrm_adahessian download")
    archive = validated(Archive, read_toml(args.config))
    from dlrm_adahessian.data.download.fetch import fetch

    say(f"{fetch(archive, args.out)}")
    return 0
