"""Errors a user can act on; each class is one exit code of the command-line contract.

A message says the rule, the value that broke it, and the remedy. The command line prints it without a
traceback; anything that is not a `ProgramError` is a defect and keeps its traceback.
"""


class ProgramError(Exception):
    """Base of all errors that the command line reports as one message."""

    exit_code: int = 1


class UsageError(ProgramError):
    """A flag or a configuration value breaks a rule."""

    exit_code = 64


class DataError(ProgramError):
    """The input was read and breaks a rule of its format."""

    exit_code = 65


class NoInputError(ProgramError):
    """The input is not there or can't be opened."""

    exit_code = 66


class StorageError(ProgramError):
    """Reading or writing failed: disk full, I/O error, no permission."""

    exit_code = 74


class CheckpointError(ProgramError):
    """A checkpoint, or a result that is finished, is damaged, incomplete, or belongs to something else."""

    exit_code = 3


class DivergedError(ProgramError):
    """Training produced values that are not finite, and going back to a checkpoint does not help."""

    exit_code = 4


class LockedError(ProgramError):
    """Another process works on the same folder."""

    exit_code = 5


class LostRankError(ProgramError):
    """Another rank is gone or does not answer."""

    exit_code = 75


class ToldElsewhereError(ProgramError):
    """Another rank tells what went wrong; this one says nothing and has the same exit code."""

    def __init__(self, exit_code: int) -> None:
        """Take the exit code."""
        super().__init__("")
        self.exit_code = exit_code
