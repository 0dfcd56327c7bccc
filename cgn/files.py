"""Files and folders that appear whole or not at all: written under another name, synced, renamed.

A killed writer leaves a hidden sibling, `.NAME.xxxxxxxx.tmp`, which no reader opens.
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
    """Yields the path of a draft, to be made as a file or a folder; it is renamed to `place` after the block.

    A file replaces a file, a folder an empty folder. If the block raises, `place` is unchanged.

    Raises:
        OSError: something else is at `place`, or the storage takes no more; `place` is unchanged.
    """
    draft = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield draft
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        draft.replace(place)
        _sync(place.parent)
    finally:
        remove(draft)


def write(place: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write a file, in place of an older one. A private file is never readable for others, not even as a
    draft.
    """
    with atomic(place) as draft:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)


def remove_drafts(place: Path) -> None:
    """Remove the drafts that killed writers of `place` left; no other process may be writing it."""
    for draft in place.parent.glob(f".{glob.escape(place.name)}.{'[0-9a-f]' * 8}.tmp"):
        remove(draft)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
