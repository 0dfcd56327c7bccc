"""Files and folders that are there whole or not at all: made under another name, synced, renamed.

A writer that is killed leaves a hidden sibling, `.NAME.xxxxxxxx.tmp`, which no reader looks at.
"""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(place: Path) -> Iterator[Path]:
    """The path of a sibling to make, a file or a folder; it becomes `place` once the block has ended well.

    A file takes the place of a file, a folder that of an empty one.

    Raises:
        OSError: something else stands there, or the storage takes no more; `place` is as it was then.
    """
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield draft
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        draft.replace(place)
        _sync(place.parent)
    finally:
        _remove(draft)


def write(place: Path, content: bytes | str, *, private: bool = False) -> None:
    """A file, over what was there; a private one is never readable for others, not even half-written."""
    with atomic(place) as draft:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)


def remove_drafts(place: Path) -> None:
    """Remove what killed writers of `place` left; nobody else may be writing it."""
    for left in place.parent.glob(f".{glob.escape(place.name)}.{'[0-9a-f]' * 8}.tmp"):
        _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
