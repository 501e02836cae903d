"""Errors that a user can act on. Each class has one exit code of the command-line contract.

A message says what happened, why, and what to do. The command line prints it without a traceback. Any other exception is a
bug and keeps its traceback.
"""


class ProgramError(Exception):
    """Base class of errors that the command line reports as one message."""

    exit_code: int = 1


class UsageError(ProgramError):
    """A flag or a setting is invalid."""

    exit_code = 64


class DataError(ProgramError):
    """The input was read but violates its format."""

    exit_code = 65


class NoInputError(ProgramError):
    """The input does not exist or cannot be opened."""

    exit_code = 66


class StorageError(ProgramError):
    """Reading or writing failed: disk full, I/O error, or no permission."""

    exit_code = 74


class CheckpointError(ProgramError):
    """A checkpoint or a finished result is damaged, incomplete, or belongs to another configuration."""

    exit_code = 3


class DivergedError(ProgramError):
    """Training produced non-finite values, and resuming from a checkpoint does not help."""

    exit_code = 4


class LockedError(ProgramError):
    """Another process is using the same folder."""

    exit_code = 5


class LostRankError(ProgramError):
    """Another rank exited or does not respond."""

    exit_code = 75


class ToldElsewhereError(ProgramError):
    """Another rank reports the failure. This rank stays silent and exits with the same code."""

    def __init__(self, exit_code: int) -> None:
        """Store the exit code."""
        super().__init__("")
        self.exit_code = exit_code
