"""The errors that a user can act on, as one small tree.

CGNError
├── ConfigError          an invalid field, search space or option
├── DataError            a folder or file that is not what was expected
│   ├── NotADatasetError     a folder without the files of the dataset
│   ├── UnreadableImageError one image; the rest of the batch continues
│   ├── CacheError           a missing or damaged cache
│   └── ModelError           a missing or damaged model
├── WeightsError         pre-trained weights that cannot be loaded
├── DivergedError        a loss or score that is not finite
├── TimeLimitError       work that does not fit the caller's time limit
└── PlatformError        the cluster, the study, the ledger or the tracking server
    ├── ResourcesError       a request that no node can meet
    ├── StudyError           a study that another driver holds, or another study of this name
    ├── LedgerError          a missing or damaged unit, or full storage
    ├── ClusterError         a cluster that does not answer or runs other code
    └── RegistryError        a missing version, or a registry that does not answer

A message says in one line what is wrong, what must hold, what was given, and what to do. The command line
prints that line and exits with 2.
"""

from enum import StrEnum


class CGNError(Exception):
    """Base of all errors that a user can act on.

    Attributes:
        remedy: what to do, if it was given apart; printed after the message and a colon.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    @property
    def message(self) -> str:
        """What happened, without the remedy."""
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}" if self.remedy else self.message


class ConfigError(CGNError, ValueError):
    """An invalid field, search space or option."""


class DataError(CGNError):
    """A folder or file that is not what was expected."""


class NotADatasetError(DataError):
    """A folder without the files of the dataset."""


class Reason(StrEnum):
    """Why an image cannot be used. There are few reasons, so that they can be counted."""

    UNREADABLE = "unreadable"  # the file cannot be opened
    NOT_DICOM = "not_dicom"
    DEFLATED = "deflated"
    TRANSFER_SYNTAX = "transfer_syntax"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    MULTI_FRAME = "multi_frame"
    COLOUR = "colour"
    DEPTH = "depth"  # an impossible number of bits, or values beyond it
    WRONG_SIZE = "wrong_size"
    UNDECODABLE = "undecodable"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    WRONG_SIDE = "wrong_side"
    WRONG_VIEW = "wrong_view"
    TURNED = "turned"  # by 90 or 180 degrees, or flipped
    NO_BREAST = "no_breast"
    SAME_FILM = "same_film"  # the same image under another patient, side, view or label
    NEGATIVE = "negative"  # brighter outside the breast than inside
    WINDOW = "window"  # a window, look-up table or rescale slope that says no brightness


class UnreadableImageError(DataError):
    """One image that cannot be used; the rest of the batch continues.

    Its message contains no path and no tag, since it goes to caches and logs. Only data sets whose file names
    are public name the file.

    Attributes:
        reason: for counts.
        role: "target" or "reference", if it is known which film of a pair this is.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason
        self.role = ""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.reason), {"role": self.role, "remedy": self.remedy}


class CacheError(DataError):
    """A missing or damaged cache."""


class ModelError(DataError):
    """A missing or damaged model."""


class WeightsError(CGNError):
    """Pre-trained weights that cannot be loaded."""


class DivergedError(CGNError):
    """A loss or score that is not finite."""


class TimeLimitError(CGNError):
    """Work that does not fit the caller's time limit."""


class PlatformError(CGNError):
    """An error of the cluster, the study, the ledger or the tracking server."""


class ResourcesError(PlatformError):
    """A request that no node can meet."""


class StudyError(PlatformError):
    """A study that another driver holds, or another study of this name."""


class LedgerError(PlatformError):
    """A missing or damaged unit, or full storage."""


class ClusterError(PlatformError):
    """A cluster that does not answer or runs other code."""


class RegistryError(PlatformError):
    """A missing version, or a registry that does not answer."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error, short enough for a line of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:")[:200] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of another library's error: of a remote traceback, the exception itself."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:200] if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """The whole message of another library's error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
