"""Numbers of a page, as HTML that names the path of each in the facts."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from cgn_platform.report.facts import Facts

MISSING = "–"


def typographic(value: float, form: str) -> str:
    """A number as it is shown on the page: with a true minus sign."""
    return format(value, form).replace("-", "−")


def number(facts: Facts, path: str, form: str = ".3f") -> Markup:
    """A number of the facts, as HTML that names its path, e.g. `rows.3.auc.low`. A dash if it is missing."""
    value = value_at(facts, path)
    if value is None:
        return escape(MISSING)
    return Markup('<data value="{}" data-at="{}" data-form="{}">{}</data>').format(
        repr(value), path, form, typographic(value, form)
    )


def setting(facts: Facts, path: str) -> Markup:
    """A field of a configuration: a number as `number` writes it, a word, or named settings in one line."""
    value = value_at(facts, path)
    if isinstance(value, Mapping):
        shown = (Markup("{} {}").format(name, setting(facts, f"{path}.{name}")) for name in value)
        return Markup(", ").join(shown) or escape(MISSING)
    if value is None or isinstance(value, str | bool):
        return escape(MISSING if value is None else value)
    return number(facts, path, ".3g" if isinstance(value, float) else "d")


def value_at(facts: Facts, path: str) -> Any:
    """The value at a path in the facts; None if a mapping on the way lacks it."""
    value: Any = facts
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, Sequence) else (value or {}).get(step)
    return value
