"""The part of a batch that one rank works on.

Ranks have consecutive samples in their order, `size` each: so what they hold one after another is the global batch, and
padding, if any, comes after all samples. The last ranks have fewer where the batch is smaller, or none at all.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Share:
    """Samples `first` up to `first + count` of a batch of B samples over all ranks.

    Attributes:
        samples: B, at least 1.
        rank: of whom.
        world_size: number of ranks.
        size: samples of a rank that has its full part; `world_size * size` is at least B.
    """

    samples: int
    rank: int = 0
    world_size: int = 1
    size: int

    @property
    def first(self) -> int:
        """The first sample of this rank, counted in the global batch; B for a rank without samples."""
        return min(self.rank * self.size, self.samples)

    @property
    def count(self) -> int:
        """Samples of this rank."""
        return min(self.size, self.samples - self.first)

    @property
    def padded(self) -> int:
        """Samples of this rank and padding: the same on all ranks, and at least 1."""
        return min(self.size, self.samples)

    def count_among(self, first_samples: int) -> int:
        """Return how many of the first samples of the global batch this rank has."""
        return min(max(first_samples - self.first, 0), self.count)


def whole(samples: int) -> Share:
    """Return the share of a rank that is alone."""
    return Share(samples=samples, size=samples)
