"""Temporary folders of drivers and servers, removed by the next driver if their owner was killed."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

DRIVERS, SERVERS = "cgn-", "cgnup-"  # temporary folders of drivers and of `up`


def make_temporary(prefix: str) -> Path:
    """A folder named after this process, for its owner only. Ray opens the one that it is given to
    everyone, so it gets one within.
    """
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=_short_folder()))


def _short_folder() -> Path:
    """For temporary files: a path of Ray's sockets may have 107 characters."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) < 19 else "/tmp")  # noqa: S108


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what nobody reads again; the next driver removes it if this one is killed."""
    folder = make_temporary(DRIVERS)
    try:
        yield folder
    finally:
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    for _ in range(20):  # processes that are ending may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def remove_leftovers() -> None:
    """Folders of drivers that were killed: Ray's own processes ended with them."""
    for folder in _short_folder().glob(f"{DRIVERS}[0-9]*-*"):
        owner = folder.name.removeprefix(DRIVERS).partition("-")[0]
        with contextlib.suppress(OSError):
            mine = folder.stat().st_uid == os.getuid()
            if mine and owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)
