"""Everything that can be the user's or the data's fault, as one small tree.

CGNError
├── ConfigError          a field, a search space or an option that cannot be
├── DataError            the folder or the file is not what it was taken for
│   ├── NotADatasetError     a folder without what the dataset needs
│   ├── UnreadableImageError one image; the rest of the batch goes on
│   └── CacheError           no cache there, or a damaged one
├── WeightsError         pre-trained weights that cannot be had
├── DivergedError        a loss or a score that is no number
└── PlatformError        the cluster, the study or the tracking server
    ├── ResourcesError       asked for what no node can give
    ├── StudyError           another driver holds the study, or it is another study
    └── ClusterError         nothing answers at the address

Messages say what, what must hold, what came and what to do, in one line.
The command line prints that line and exits with 2.
"""


class CGNError(Exception):
    """Base of all errors that a user can act on."""


class ConfigError(CGNError, ValueError):
    """A field, a search space or an option that cannot be."""


class DataError(CGNError):
    """The folder or the file is not what it was taken for."""


class NotADatasetError(DataError):
    """A folder without what the dataset needs."""


class UnreadableImageError(DataError):
    """One image that cannot be used; the rest of the batch goes on."""


class CacheError(DataError):
    """No cache at this place, or a damaged one."""


class WeightsError(CGNError):
    """Pre-trained weights that cannot be had."""


class DivergedError(CGNError):
    """A loss or a score that is no number."""


class PlatformError(CGNError):
    """The cluster, the study or the tracking server."""


class ResourcesError(PlatformError):
    """Asked for what no node can give."""


class StudyError(PlatformError):
    """Another driver holds the study, or it is another study."""


class ClusterError(PlatformError):
    """Nothing answers at the address."""
