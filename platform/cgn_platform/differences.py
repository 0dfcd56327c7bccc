"""In what two declarations of a search or a table differ."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

SHOWN, NAMED, BRIEF = 6, 20, 80
"""Differences that are shown whole, further ones that are named, and characters of a value."""


def difference(old: Any, new: Any, where: str = "") -> list[str]:
    """The leaves in which two declarations differ, one line each: `base.epochs was 10 and is 20`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys(itertools.chain(old, new))
        inner = (difference(old.get(k), new.get(k), f"{where}.{k}" if where else str(k)) for k in keys)
        return list(itertools.chain.from_iterable(inner))
    return [] if old == new else [f"{where} was {_brief(old)} and is {_brief(new)}"]


def in_one_line(differences: Sequence[str]) -> str:
    """The differences as one line of limited length: the first ones whole, of the others the names."""
    shown, others = differences[:SHOWN], [line.partition(" was ")[0] for line in differences[SHOWN:]]
    names = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    return "; ".join([*shown, f"and in {names}"] if others else shown)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= BRIEF else f"{text[: BRIEF - 3]}..."
