"""Every error robustq raises on purpose, and the exit status each one gives the command line."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of the `robustq` command."""

    OK = 0
    GATE = 1  # a gate was missed (--min-acc, --min-robust-acc, --max-drop, --max-bytes)
    USAGE = 2  # bad input: an option, a file, data, weights
    NOTHING = 3  # nothing was compressed
    UNSAFE = 4  # an unsafe file was refused
    VERIFICATION = 5  # a written file failed its verification
    INTERNAL = 70
    TIME_LIMIT = 124  # --time-limit was reached; the report holds what was done (the status of timeout(1))
    INTERRUPTED = 130
    PIPE = 141


class RobustqError(Exception):
    """What is wrong, where, the value found, and what to do about it.

    `str(error)` is the whole message: one sentence for the problem, then the remedy.
    """

    exit_code: Exit = Exit.USAGE

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}\n{remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class OptionError(RobustqError):
    """An option, a recipe entry or an argument has a value that cannot be used."""


class UnknownNameError(RobustqError):
    """A method, model or data set of that name does not exist."""


class InputFileError(RobustqError):
    """A file is missing, unreadable, truncated, of the wrong kind, or holds the wrong things."""


class DataError(RobustqError):
    """Images or labels are out of range, misshapen or missing a split."""


class WeightError(RobustqError):
    """Weights hold NaN or Inf, or do not fit the architecture."""


class ArchitectureError(RobustqError):
    """The class of a bare state dict is not known, or does not fit it."""


class OutputError(RobustqError):
    """An output exists already, or its place cannot be written."""


class TrainingError(RobustqError):
    """Training cannot go on: the loss is not finite, or a saved state belongs to another run."""


class NothingCompressedError(RobustqError):
    """No tensor of the checkpoint was touched."""

    exit_code = Exit.NOTHING


class UnsafeFileError(RobustqError):
    """A pickle would run code of its own on loading."""

    exit_code = Exit.UNSAFE


class VerificationError(RobustqError):
    """A file that was just written does not give back what was put into it."""

    exit_code = Exit.VERIFICATION
