"""Temporary folders of Ray: at a short path, removed while processes that are ending still write to them."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cgn import temporary

SERVERS = "cgnup-"  # prefix of those of `cgn up`, whose servers outlive it
LONGEST_BASE = 18  # characters; the path of a Unix socket of Ray may have 107


def make_temporary(prefix: str = temporary.PREFIX) -> Path:
    """Make a folder that is named after this process and accessible to its owner only.

    Ray makes its own temporary folder accessible to everyone, so it gets one inside this folder.
    """
    return temporary.make(_base(), prefix)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for files that are not needed later; the next driver removes it if this one is killed."""
    folder = make_temporary()
    try:
        yield folder
    finally:
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder, also while processes that are ending still write to it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def remove_leftovers() -> None:
    """Remove this user's folders of drivers that were killed; Ray's processes ended with their driver."""
    temporary.remove_leftovers(_base())


def _base() -> Path:
    """The system's folder for temporary files, or /tmp if its path is too long for Ray's sockets."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= LONGEST_BASE else "/tmp")  # noqa: S108
