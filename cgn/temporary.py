"""Temporary folders that bear the number of their process, `cgn-PID-xxxxxxxx`, readable for their owner only.

A killed process leaves its folders behind; the next process that makes one removes them.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "cgn-"


def make(base: Path, prefix: str = PREFIX) -> Path:
    """Make a folder that is named after this process."""
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=base))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that exists until the end of the block. Folders of killed processes are removed first."""
    base = Path(tempfile.gettempdir())
    remove_leftovers(base)
    folder = make(base)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def within_scratch() -> Iterator[None]:
    """Until the end of the block, libraries make their temporary files in a folder of `scratch`, too.

    It holds for this process, not for its child processes.
    """
    before = tempfile.tempdir
    with scratch() as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before


def remove_leftovers(base: Path) -> None:
    """Remove this user's folders whose process has ended."""
    for folder in base.glob(f"{PREFIX}[0-9]*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            mine = folder.lstat().st_uid == os.getuid()
            if mine and owner.isdigit() and not _is_running(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of somebody else
        return True
    return True
