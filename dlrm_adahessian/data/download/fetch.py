"""An archive from the first mirror that has it: resumed where it broke off, and named only when its digest is right."""

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
    """What a mirror gave is not the file."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a mirror is waited for.

    Attributes:
        timeout: seconds after which a connection is given up that brings no byte, not all headers, or fewer bytes than
            `LEAST_SPEED` a second.
        tries: connections in a row that bring nothing new, or that too slowly, after which the mirror is given up.
        pause: seconds before the second try; each later one waits twice as long, and all a random part of it less.
    """

    timeout: float = 30
    tries: int = 5
    pause: float = 1


def fetch(archive: Archive, folder: Path, patience: Patience | None = None) -> Path:
    """Fetch an archive unless the folder has it.

    Until its digest is known to be right its name ends in .part; a later call goes on with such a file.

    Args:
        archive: what to fetch.
        folder: where to; made when it is absent.
        patience: with mirrors.

    Returns:
        The file.

    Raises:
        DataError: a mirror answered, and none has the file: its size or its digest is another.
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
            f"the archive must have the bytes and sha256 of the configuration, and no mirror has it:{told}\n"
            "compare them with what the publisher names, or name another mirror"
        )
    raise NoInputError(
        f"no mirror gave the archive:{told}\nsee that the address and the network are right, or name another mirror; "
        "what was fetched is kept, and the same command goes on with it"
    )


def _accept_present(path: Path, archive: Archive) -> None:
    if _size(path) != archive.bytes or _sha256(path) != archive.sha256.lower():
        raise DataError(
            f"{path} is there and is another file than the configuration names; move it away, or name another --out"
        )
    logger.info("%s is there already, and its sha256 is right", path)


def _verified(url: str, archive: Archive, part: Path, patience: Patience) -> None:
    """Complete the file from one mirror and check it; a file begun elsewhere that turns out wrong is fetched whole."""
    begun = _size(part) > 0
    _complete(url, archive, part, patience)
    found = _sha256(part)
    if found != archive.sha256.lower() and begun:
        logger.warning("what was begun before does not belong to the archive; fetching it anew")
        part.unlink()
        _complete(url, archive, part, patience)
        found = _sha256(part)
    if found != archive.sha256.lower():
        part.unlink()
        raise _WrongBytesError(f"its sha256 is {found}, not {archive.sha256.lower()}")


def _complete(url: str, archive: Archive, part: Path, patience: Patience) -> None:
    """Bring the file to its size, over as many connections as bring something."""
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
            # Not of this connection alone: a server without ranges starts anew each time, and may never get further.
            # And pauses count: one that sends a byte and hangs up would otherwise be asked for ever.
            now = time.monotonic()
            if has - most > LEAST_SPEED * (now - since):
                in_vain, most, since = 0, has, now
            else:
                in_vain += 1
            if in_vain == patience.tries:
                raise LostConnectionError(f"{reason}, {patience.tries} times in a row")
            pause = patience.pause * 2**in_vain * random.uniform(0.5, 1)
            logger.info(
                "%s; %s of %s bytes are here, again in %.1f s",
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
    """Write what an answer brings; one that begins at 0 replaces what is there."""
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
