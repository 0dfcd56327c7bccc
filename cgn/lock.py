"""One process at a time, by a lock file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cgn.errors import CGNError


@contextmanager
def exclusive(path: Path, busy: CGNError | Callable[[], CGNError], timeout: float = 0) -> Iterator[None]:
    """Hold a lock while the block runs. The operating system frees it if the process is killed.

    Args:
        path: of the lock file; its folder is created.
        busy: the error to raise while another process holds the lock, or a function that makes it.
        timeout: seconds to wait for the lock.

    Raises:
        CGNError: `busy`.
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise (busy() if callable(busy) else busy) from None
    try:
        yield
    finally:
        lock.release()
