"""Files and folders that appear whole or not at all: written under another name, synced, renamed.

A killed writer leaves a hidden sibling, `.NAME.xxxxxxxx.tmp`, which no reader opens.

Names of studies, tables, models and data sets become parts of paths: one rule says which ones are valid.
"""

import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cgn.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
LONGEST_NAME = 200
"""Characters. With what is added to a name, a file's name must stay below 255 bytes."""


def make_private(folder: Path) -> None:
    """Create a folder and its missing parents, for their owner only; those that exist keep their mode."""
    for parent in (*reversed(folder.parents), folder):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)


def is_name(name: object) -> bool:
    """Whether a study, table, model or data set may have this name.

    It is one part of a path, and means nothing in an address or a shell.
    """
    return isinstance(name, str) and len(name) <= LONGEST_NAME and NAME.fullmatch(name) is not None


def check_name(name: str, what: str, remedy: str = "") -> str:
    """Returns the name. Raises ConfigError unless `is_name`; `what` says whose name it is."""
    if is_name(name):
        return name
    shown = name if len(name) <= LONGEST_NAME else f"{name[:40]}... ({len(name)} characters)"
    raise ConfigError(
        f"{what} must consist of at most {LONGEST_NAME} letters (a-z, A-Z), digits, '.', '_' and '-', and "
        f"begin with a letter, digit or '_', but got {shown!r}",
        remedy,
    )


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
