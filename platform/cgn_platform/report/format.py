"""Numbers as text: those of a page, each with its path in the facts, and intervals."""

from collections.abc import Sequence
from typing import Any, Protocol

from markupsafe import Markup, escape

from cgn_platform.report.facts import Facts

CHANCE = 0.5  # AUC of a random score
MISSING = "–"


class WithBounds(Protocol):
    """An estimate with its interval: `cgn.statistics.Interval` or `Difference`."""

    @property
    def estimate(self) -> float: ...  # noqa: D102
    @property
    def low(self) -> float: ...  # noqa: D102
    @property
    def high(self) -> float: ...  # noqa: D102


def interval_text(interval: WithBounds, form: str = ".3f") -> str:
    """An estimate with its interval in plain text: `0.812 [0.701, 0.893]`."""
    low, high = format(interval.low, form), format(interval.high, form)
    return f"{format(interval.estimate, form)} [{low}, {high}]"


def typographic(value: float, form: str) -> str:
    """A number as it is shown on the page: with a true minus sign."""
    return format(value, form).replace("-", "−")


def short(value: Any) -> str:
    """A value of a configuration, with three significant digits."""
    return format(value, ".3g") if isinstance(value, float) else str(value)


def number(facts: Facts, path: str, form: str = ".3f") -> Markup:
    """A number of the facts, as HTML that names its path, e.g. `rows.3.auc.low`. A dash if it is missing."""
    value = value_at(facts, path)
    if value is None:
        return escape(MISSING)
    return Markup('<data value="{}" data-at="{}" data-form="{}">{}</data>').format(
        repr(value), path, form, typographic(value, form)
    )


def setting(facts: Facts, path: str) -> Markup:
    """A field of a configuration: a number as `number` writes it, or a word."""
    value = value_at(facts, path)
    if value is None or isinstance(value, str | bool):
        return escape(MISSING if value is None else value)
    return number(facts, path, ".3g" if isinstance(value, float) else "d")


def value_at(facts: Facts, path: str) -> Any:
    """The value at a path in the facts; None if a mapping on the way lacks it."""
    value: Any = facts
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, Sequence) else (value or {}).get(step)
    return value
