"""Read whole inputs, as a caller of `open_sources` does."""

from pathlib import Path

from dlrm_adahessian.data.text.sources import open_sources

TEXT = b"".join(b"%d\tline\n" % n for n in range(200_000))


def read_all(path: str | Path) -> dict[str, bytes]:
    """Read all sources of an input, and check that their positions end at the total."""
    read, consumed, total = {}, 0, None
    for source in open_sources(path, "criteo"):
        pieces = []
        while piece := source.read(70_001):
            pieces.append(piece)
            assert consumed <= source.consumed()
            consumed = source.consumed()
        read[source.name] = b"".join(pieces)
        consumed, total = source.consumed(), source.total
    assert total in (None, consumed)
    return read
