"""JSON files that carry their own SHA-256 and format, and hashes of plain values.

A sealed file is a JSON object whose key `sha256` is the hash of all other keys in canonical form. Caches,
ledger units and models are sealed: a damaged one is named, never read.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any


class DamagedError(ValueError):
    """A file that cannot be read, or whose content was changed; the message says which."""


def sha256(content: bytes) -> str:
    """Of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def canonical(value: Any) -> str:
    """Plain JSON with sorted keys and no blanks: equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """SHA-256 of a plain value in canonical form."""
    return sha256(canonical(value).encode())


def seal(facts: Mapping[str, Any]) -> bytes:
    """A sealed file with these facts, readable for people."""
    return plain(dict(facts) | {"sha256": digest(dict(facts))})


def plain(value: Any) -> bytes:
    """JSON as it is written everywhere in the project: indented by one, with a final line break."""
    return (json.dumps(value, indent=1) + "\n").encode()


def unseal(content: bytes, formats: Collection[int], form: str = "format") -> dict[str, Any]:
    """The facts of a sealed file, verified.

    Args:
        content: of the file.
        formats: numbers that this version reads.
        form: path of the format number in the facts, e.g. `recipe.format`.

    Raises:
        DamagedError: it cannot be read, or its hash differs.
        FormatError: it has another format.
    """
    try:
        facts: dict[str, Any] = json.loads(content)
        sealed = facts.pop("sha256")
        number: Any = facts
        for step in form.split("."):
            number = number[step]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # the last: deep nesting
        raise DamagedError("it cannot be read") from None
    if number not in formats:  # before the hash: another version may seal in another way
        raise FormatError(f"has format {number} but this version reads format {_listed(formats)}")
    if sealed != digest(facts):
        raise DamagedError("its sha256 differs")
    return facts


class FormatError(ValueError):
    """A file of a format that this version does not read."""


def _listed(formats: Collection[int]) -> str:
    return " or ".join(map(str, sorted(formats)))
