"""Load a search space or a table from a Python file, and check the names in it."""

import runpy
import shlex
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from cgn import plugins
from cgn.config import Config
from cgn.errors import CGNError, ConfigError
from cgn.provenance import fields_read, reads
from cgn_platform.space import Dimension, Space, Table

Declared = TypeVar("Declared", Space, Table)


def load_space(path: str | Path) -> Space:
    """The `SPACE` of a Python file.

    Raises:
        ConfigError: there is no such file, no SPACE in it, or the file raises; the message names the line.
    """
    return _load(Path(path), "SPACE", Space)


def load_table(path: str | Path) -> Table:
    """The `TABLE` of a Python file. Raises as `load_space` does."""
    return _load(Path(path), "TABLE", Table)


def _load(path: Path, name: str, kind: type[Declared]) -> Declared:
    if not path.is_file():
        folder = path.parent if any(path.parent.glob("*.py")) else Path("search_spaces")
        files = ", ".join(str(file) for file in sorted(folder.glob("*.py"))) or "none"
        what = {"SPACE": "search space", "TABLE": "table"}[name]
        raise ConfigError(f"no {what} at {path}: take one of {files}")
    try:
        variables = runpy.run_path(str(path))
    except Exception as error:
        message = str(error) if isinstance(error, CGNError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}, line {_line(error, path)}: {message}") from error
    value = variables.get(name)
    if not isinstance(value, kind):
        other, verb = {"SPACE": ("TABLE", "table"), "TABLE": ("SPACE", "sweep")}[name]
        if value is None and isinstance(variables.get(other), Space | Table):
            raise ConfigError(
                f"{path} must define {name} = {kind.__name__}(...) but defines {other}",
                remedy=f"run 'cgn {verb} {shlex.quote(str(path))} ...'",
            )
        actual = "has none" if value is None else f"has {value!r}"
        raise ConfigError(f"{path} must define {name} = {kind.__name__}(...) but {actual}")
    return replace(value, description=(variables.get("__doc__") or "").strip())


def check_names(config: Config, dimensions: Mapping[str, Dimension] | None = None) -> None:
    """Check that methods, backbones and loss terms exist, and that every dimension is read by a method.

    Raises:
        ConfigError: a name does not exist (the message lists the valid ones), or no method reads a dimension.
    """
    values: dict[str, set[str]] = {}
    for name, package in {"method": "cgn.methods", "backbone": "cgn.backbones"}.items():
        dimension = (dimensions or {}).get(name)
        values[name] = {
            str(value) for value in (getattr(config, name), *(dimension.extremes() if dimension else ()))
        }
        for value in values[name]:
            plugins.check(package, value)
    if config.loss_weights or config.method != Config.model_fields["method"].default:
        from cgn import methods  # late: imports torch, and the default method requires nothing

        methods.check(config)
    chosen = sorted(values["method"])
    read = frozenset[str]().union(*(fields_read(method) for method in chosen))
    if unread := [name for name in dimensions or () if not any(reads(m, name) for m in chosen)]:
        raise ConfigError(
            f"dimension {unread[0]!r} must be a field that {' or '.join(chosen)} reads but "
            f"is not: it has no effect; remove it, or search {', '.join(sorted(read))}"
        )


def _line(error: Exception, path: Path) -> int:
    """The line of the file that raised."""
    if isinstance(error, SyntaxError):
        return error.lineno or 1
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (frames[-1].lineno or 1) if frames else 1
