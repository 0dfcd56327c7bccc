"""Everything that can be the user's or the data's fault, as one small tree.

CGNError
├── ConfigError          a field, a search space or an option that cannot be
├── DataError            the folder or the file is not what it was taken for
│   ├── NotADatasetError     a folder without what the dataset needs
│   ├── UnreadableImageError one image; the rest of the batch goes on
│   ├── CacheError           no cache there, or a damaged one
│   └── ModelError           no model to predict with there, or a damaged one
├── WeightsError         pre-trained weights that cannot be had
├── DivergedError        a loss or a score that is no number
└── PlatformError        the cluster, the study, the ledger or the tracking server
    ├── ResourcesError       asked for what no node can give
    ├── StudyError           another driver holds the study, or it is another study
    ├── LedgerError          no such unit, a damaged one, or storage that takes no more
    ├── ClusterError         nothing answers at the address
    └── RegistryError        no such version, or a registry that does not answer

Messages say what, what must hold, what came and what to do, in one line.
The command line prints that line and exits with 2.
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
    """A field, a search space or an option that cannot be."""


class DataError(CGNError):
    """The folder or the file is not what it was taken for."""


class NotADatasetError(DataError):
    """A folder without what the dataset needs."""


class Reason(StrEnum):
    """Why an image cannot be used: few enough to be counted."""

    UNREADABLE = "unreadable"  # the system does not give the file
    NOT_DICOM = "not_dicom"
    DEFLATED = "deflated"
    TRANSFER_SYNTAX = "transfer_syntax"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    MULTI_FRAME = "multi_frame"
    COLOUR = "colour"
    DEPTH = "depth"  # bits a pixel that cannot be, or values beyond them
    WRONG_SIZE = "wrong_size"
    UNDECODABLE = "undecodable"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    WRONG_SIDE = "wrong_side"
    NO_BREAST = "no_breast"


class UnreadableImageError(DataError):
    """One image that cannot be used; the rest of the batch goes on.

    Its message names no path and repeats no tag: it goes to caches and logs. Data sets whose file
    names are public may name the file.

    Attributes:
        reason: to count by.
        role: "target" or "reference", where it is known which film of a pair it is.
    """

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason
        self.role = ""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.reason), {"role": self.role, "remedy": self.remedy}


class CacheError(DataError):
    """No cache at this place, or a damaged one."""


class ModelError(DataError):
    """No model to predict with at this place, or a damaged one."""


class WeightsError(CGNError):
    """Pre-trained weights that cannot be had."""


class DivergedError(CGNError):
    """A loss or a score that is no number."""


class PlatformError(CGNError):
    """The cluster, the study, the ledger or the tracking server."""


class ResourcesError(PlatformError):
    """Asked for what no node can give."""


class StudyError(PlatformError):
    """Another driver holds the study, or it is another study."""


class LedgerError(PlatformError):
    """No such unit, a damaged one, or storage that takes no more."""


class ClusterError(PlatformError):
    """Nothing answers at the address."""


class RegistryError(PlatformError):
    """No such version, or a registry that does not answer."""


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
