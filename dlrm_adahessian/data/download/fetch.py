"""Download an archive from the first mirror that has it. Resume partial files, and rename them only after verification."""

import hashlib
import logging
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlrm_adahessian.data.download.answers import LEAST_SPEED
from dlrm_adahessian.data.download.config import Archive
from dlrm_adahessian.data.download.urls import (
    LostConnectionError,
    Transfer,
    UselessMirrorError,
    opened,
    shown,
)
from dlrm_adahessian.errors import DataError, NoInputError
from dlrm_adahessian.runs.files import continued, flush_to_disk
from dlrm_adahessian.runs.sealed import exclusive_lock, require_room, storage_errors
from dlrm_adahessian.runtime.terminal import progress_bar

_BLOCK = 1 << 20  # bytes

logger = logging.getLogger(__name__)


class _WrongBytesError(Exception):
    """A mirror sent another file."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Timeouts and retries for a mirror.

    Attributes:
        timeout: seconds without a byte, until the end of the headers, or below `LEAST_SPEED`, after which a connection is
            closed.
        tries: consecutive connections without sufficient progress after which the mirror is skipped.
        pause: seconds before the first retry, doubled for each later one; a random part of up to half is subtracted.
    """

    timeout: float = 30
    tries: int = 5
    pause: float = 1


def fetch(archive: Archive, folder: Path, patience: Patience | None = None) -> Path:
    """Download an archive unless the folder has it already.

    Until the digest is verified, the file name ends in .part. A later call continues such a file.

    Args:
        archive: the file and its mirrors.
        folder: output folder; created if missing.
        patience: timeouts and retries; None for the defaults.

    Returns:
        Path of the file.

    Raises:
        DataError: a mirror answered, but none has a file of the right size and digest.
        NoInputError: no mirror answered.
    """
    final = folder / archive.name
    part = folder / f"{archive.name}.part"
    with exclusive_lock(folder / f"{archive.name}.lock", wait=False), storage_errors(final):
        if final.exists():
            _accept_present(final, archive)
            return final
        require_room(folder, archive.bytes - _size(part), "--out")
        failures: list[str] = []
        wrong = False
        for url in archive.urls:
            logger.info("fetching %s from %s", archive.name, shown(url))
            try:
                _verified(url, archive, part, patience or Patience())
            except (LostConnectionError, UselessMirrorError, _WrongBytesError) as error:
                failures.append(f"{shown(url)}: {error}")
                wrong = wrong or isinstance(error, _WrongBytesError)
            else:
                part.replace(final)
                return final
            logger.warning("%s", failures[-1])
    told = "".join(f"\n  {failure}" for failure in failures)
    if wrong:
        raise DataError(
            f"No mirror has a file with the bytes and sha256 of the configuration:{told}\n"
            "Compare these with the publisher's values, or add another mirror."
        )
    raise NoInputError(
        f"No mirror sent the archive:{told}\nCheck the address and the network, or add another mirror. "
        "Run the same command again to continue the partial download."
    )


def _accept_present(path: Path, archive: Archive) -> None:
    if _size(path) != archive.bytes or _sha256(path) != archive.sha256.lower():
        raise DataError(
            f"{path} exists, but is not the file in the configuration. Move it away, or choose another --out."
        )
    logger.info("%s already exists, and its sha256 is correct", path)


def _verified(url: str, archive: Archive, part: Path, patience: Patience) -> None:
    """Complete the file from one mirror and verify it. If a partial file turns out wrong, download it all again."""
    begun = _size(part) > 0
    _complete(url, archive, part, patience)
    found = _sha256(part)
    if found != archive.sha256.lower() and begun:
        logger.warning("the partial file does not belong to this archive; downloading it again")
        part.unlink()
        _complete(url, archive, part, patience)
        found = _sha256(part)
    if found != archive.sha256.lower():
        part.unlink()
        raise _WrongBytesError(f"its sha256 is {found}, not {archive.sha256.lower()}")


def _complete(url: str, archive: Archive, part: Path, patience: Patience) -> None:
    """Download the file to its full size, over as many connections as make progress."""
    if _size(part) > archive.bytes:
        part.unlink()
    in_vain, most, since = 0, _size(part), time.monotonic()
    with progress_bar(archive.name, unit="B", total=archive.bytes, done=_size(part)) as bar:
        while (had := _size(part)) < archive.bytes:
            try:
                with opened(url, had, patience.timeout) as transfer:
                    _check_total(transfer, archive)
                    _append(transfer, part, archive, bar)
                reason = "the connection ended early"
            except LostConnectionError as error:
                reason = str(error)
            if (has := _size(part)) == archive.bytes:
                return
            # Progress counts across connections, because a server without ranges starts at 0 each time. It includes the
            # pauses, or a server that sends one byte and hangs up would be retried forever.
            now = time.monotonic()
            if has - most > LEAST_SPEED * (now - since):
                in_vain, most, since = 0, has, now
            else:
                in_vain += 1
            if in_vain == patience.tries:
                raise LostConnectionError(f"{reason}, {patience.tries} times in a row")
            pause = patience.pause * 2**in_vain * random.uniform(0.5, 1)
            logger.info(
                "%s; downloaded %s of %s bytes, retrying in %.1f s",
                reason,
                f"{has:,}",
                f"{archive.bytes:,}",
                pause,
            )
            time.sleep(pause)


def _check_total(transfer: Transfer, archive: Archive) -> None:
    if transfer.total not in (None, archive.bytes):
        raise _WrongBytesError(f"it has {transfer.total:,} bytes, not {archive.bytes:,}")


def _append(transfer: Transfer, part: Path, archive: Archive, bar: Any) -> None:
    """Append the bytes of a response. One that begins at 0 replaces the file."""
    with continued(part) as file:
        file.truncate(transfer.start)
        bar.n = transfer.start
        left = archive.bytes - transfer.start
        while left and (data := transfer.read(min(_BLOCK, left))):
            file.write(data)
            left -= len(data)
            bar.update(len(data))
        file.flush()
        flush_to_disk(file.fileno())


def _sha256(path: Path) -> str:
    logger.info("checking the sha256 of %s", path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
