"""Plug-ins are modules found by their name in a package: to add one is to add a file."""

import importlib
import pkgutil
from types import ModuleType

from cgn.errors import ConfigError


def names(package: str) -> list[str]:
    """Names of the plug-ins in `package`, e.g. `cgn.backbones`."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def load(package: str, name: str) -> ModuleType:
    """The plug-in of that name.

    Raises:
        ConfigError: no such plug-in; the message lists the existing ones.
    """
    known = names(package)
    if name not in known:
        kind = package.rpartition(".")[2]
        raise ConfigError(f"no {name!r} among the {kind}: take one of {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
