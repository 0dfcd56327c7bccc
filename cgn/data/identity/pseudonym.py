"""Pseudonyms for patients, studies and films, which only the holder of a key can resolve.

A pseudonym is a keyed hash: under one key the same identifier always has the same pseudonym, so that a
woman's films are found together; without the key, not even a guessed identifier can be checked. The key is a
file that is kept apart from all that is shared, never in a cache or a repository. Whoever loses it can
neither resolve pseudonyms nor extend a cohort; whoever holds it can (`cgn whose`).
"""

import hmac
import os
import secrets
import shlex
import stat
from pathlib import Path

from cgn.errors import ConfigError

DEFAULT_KEY_FILE = Path("~/.config/cgn/pseudonym.key")
"""Used unless CGN_KEY_FILE names another file."""

SHORTEST_KEY = 32
"""Bytes of a key file, without leading and trailing whitespace."""


class Pseudonyms:
    """Makes pseudonyms with one key, which is never shown."""

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY:
            raise ConfigError(f"a key must have at least {SHORTEST_KEY} bytes but has {len(key)}")
        self._key = key

    def of(self, kind: str, value: str) -> str:
        """HMAC-SHA256 of a value, e.g. `patient-3f9a0c5d1e7b2846`; another kind gives another pseudonym."""
        return f"{kind}-{self._hash(kind + chr(0) + value)[:16]}"

    @property
    def key_id(self) -> str:
        """Eight digits that identify the key and reveal nothing about it; they may be recorded."""
        return self._hash("key id")[:8]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def open_pseudonyms(path: Path | None = None) -> Pseudonyms:
    """The pseudonyms of the key in `path`, else in CGN_KEY_FILE, else in the default file.

    If there is no such file, a new key is written, readable for its owner only.

    Raises:
        ConfigError: the file is readable for others, too short, in a git work tree, or not accessible.
    """
    path = Path(path or os.environ.get("CGN_KEY_FILE") or DEFAULT_KEY_FILE).expanduser().absolute()
    try:
        path = path.resolve()
        _check_place(path)
        if not path.exists():
            _create(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(
                f"the key file {path} must be readable for its owner only",
                remedy=f"run 'chmod 600 {shlex.quote(str(path))}'",
            )
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot use the key file {path} ({error.strerror}): name another one in CGN_KEY_FILE"
        ) from None
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"the key file {path} must hold at least {SHORTEST_KEY} bytes but holds {len(key)}: "
            "restore it, or remove it so that a new one is written"
        )
    return Pseudonyms(key)


def _check_place(path: Path) -> None:
    for folder in path.parents:
        if (folder / ".git").exists():
            raise ConfigError(
                f"the key file {path} must not lie in the git work tree {folder}: "
                "move it, and name it in CGN_KEY_FILE"
            )


def _create(path: Path) -> None:
    """Write a complete key or none. A hard link, unlike a rename, keeps the key of a faster process."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(draft)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
