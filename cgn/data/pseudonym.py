"""Names that stand for patients, studies and films, and that only the holder of a key can lead back.

A pseudonym is a keyed hash: equal under one key, so that a woman's films find each other; without
the key not even a guessed identifier can be checked. The key is a file that lies apart from all that
is shared: not in a cache, not in a repository. Who loses it cannot lead pseudonyms back, nor add to a
cohort; who holds it can: `cgn whose`.
"""

import hmac
import os
import secrets
import stat
from pathlib import Path

from cgn.errors import ConfigError

DEFAULT_KEY_FILE = Path("~/.config/cgn/pseudonym.key")
"""Used where CGN_KEY_FILE names no other."""

SHORTEST_KEY = 32
"""Bytes of a key file, blanks at its ends not counted."""


class Pseudonyms:
    """Keyed names; the key itself is never shown."""

    def __init__(self, key: bytes) -> None:
        if len(key) < SHORTEST_KEY:
            raise ConfigError(f"a key must have at least {SHORTEST_KEY} bytes but has {len(key)}")
        self._key = key

    def of(self, kind: str, value: str) -> str:
        """HMAC-SHA256 of a value, e.g. `patient-3f9a0c5d1e7b2846`; another kind gives another name."""
        return f"{kind}-{self._hash(kind + chr(0) + value)[:16]}"

    @property
    def key_id(self) -> str:
        """Eight digits that tell one key from another and nothing about it: may be recorded."""
        return self._hash("key id")[:8]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()


def open_pseudonyms(path: Path | None = None) -> Pseudonyms:
    """The pseudonyms of the key in `path`, in CGN_KEY_FILE, or in the default place.

    Where there is no file yet, a new key is written, for its owner's eyes only.

    Raises:
        ConfigError: others may read the file, it is too short, it lies in a git work tree, or the
            system does not give it.
    """
    path = Path(path or os.environ.get("CGN_KEY_FILE") or DEFAULT_KEY_FILE).expanduser().absolute()
    try:
        path = path.resolve()
        _check_place(path)
        if not path.exists():
            _create(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"the key file {path} must be for its owner only: run 'chmod 600 {path}'")
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot use the key file {path} ({error.strerror}): CGN_KEY_FILE may name another"
        ) from None
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"the key file {path} must hold at least {SHORTEST_KEY} bytes but holds {len(key)}: "
            "restore it, or remove it to have a new one written"
        )
    return Pseudonyms(key)


def _check_place(path: Path) -> None:
    for folder in path.parents:
        if (folder / ".git").exists():
            raise ConfigError(
                f"the key file {path} must not lie in the git work tree {folder}: "
                "move it, and let CGN_KEY_FILE name it"
            )


def _create(path: Path) -> None:
    """A whole file or none; where two come at once, both use the one that was first."""
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
