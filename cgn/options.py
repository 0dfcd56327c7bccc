"""Settings of one method, declared in its file as a class `Options`; `Config.options` holds their values.

>>> class Options(options.Options):
...     scheme: Literal["max", "sparse"] = Field("sparse", description="which cells the loss reads")
"""

import difflib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cgn import plugins
from cgn.errors import ConfigError

Value = bool | int | float | str
PREFIX = "options."
"""Of the dotted name of an option."""


class Options(BaseModel):
    """Base class of a method's options; the descriptions of the fields are the help text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def for_backbone(self, _backbone: str) -> Self:
        """The options with those at their default that have no effect with this backbone (default: all)."""
        return self


def load(method: str, backbone: str, values: Mapping[str, Value]) -> Options:
    """The options of a method.

    Raises:
        ConfigError: no such method, option or value; one line that names what is valid.
    """
    kind = declared(method)
    if unknown := sorted(set(values) - set(kind.model_fields)):
        raise _unknown(kind, method, unknown[0])
    try:
        return kind.model_validate(dict(values)).for_backbone(backbone)
    except ValidationError as error:
        lines = (
            f"options.{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')} "
            f"but got {e['input']!r}"
            for e in error.errors()
        )
        raise ConfigError("; ".join(lines)) from None


def canonical(method: str, backbone: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The options that differ from their defaults, so that equal trainings have equal configurations.

    Raises what `load` raises.
    """
    given = load(method, backbone, values).model_dump(mode="json", exclude_defaults=True)
    return dict(sorted(given.items()))


def value(given: Options, method: str, name: str) -> Any:
    """The value of one option. Raises ConfigError if the method has no such option."""
    if name not in type(given).model_fields:
        raise _unknown(type(given), method, name)
    return given.model_dump(mode="json")[name]


def declared(method: str) -> type[Options]:
    """The class `Options` of a method's module; one without fields if it has none. Raises ConfigError."""
    kind: type[Options] = getattr(plugins.load("cgn.methods", method), "Options", Options)
    return kind


def _unknown(kind: type[Options], method: str, name: str) -> ConfigError:
    names = sorted(kind.model_fields)
    if not names:
        return ConfigError(f"method {method} has no options but got {name!r}: remove options.{name}")
    near = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"method {method} has no option {name!r}; {hint}it has {', '.join(names)}")
