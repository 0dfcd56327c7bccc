"""Numbers of the report, each with its path in the facts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cgn_platform.report.facts import Facts

if TYPE_CHECKING:
    pass


def number(facts: Facts, at: str, form: str = ".3f") -> Markup:
    """A number of the facts, as HTML that says which: `rows.3.auc.low`. A dash where there is none."""
    value = value_at(facts, at)
    if value is None:
        return Markup("–")
    return Markup('<data value="{}" data-at="{}" data-form="{}">{}</data>').format(
        repr(value), at, form, format(value, form).replace("-", "−")
    )


def setting(facts: Facts, at: str) -> Markup:
    """A field of a configuration: a number as `number` writes it, or a word."""
    value = value_at(facts, at)
    if value is None or isinstance(value, str | bool):
        return Markup("{}").format("–" if value is None else value)
    return number(facts, at, ".3g" if isinstance(value, float) else "d")


def value_at(facts: Facts, at: str) -> Any:
    value: Any = facts
    for step in at.split("."):
        value = value[int(step)] if isinstance(value, Sequence) else (value or {}).get(step)
    return value
