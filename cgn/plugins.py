"""Plug-ins are modules found by their name in a package: to add one is to add a file."""

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from cgn.errors import ConfigError


def names(package: str) -> list[str]:
    """Names of the plug-ins in `package`, e.g. `cgn.backbones`. Imports neither it nor its plug-ins."""
    spec = importlib.util.find_spec(package)
    path = (spec and spec.submodule_search_locations) or ()
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def check(package: str, name: str) -> None:
    """Check that there is a plug-in of that name, without importing it.

    Raises:
        ConfigError: no such plug-in; the message lists the existing ones.
    """
    known = names(package)
    if name not in known:
        kind = package.rpartition(".")[2]
        raise ConfigError(f"no {name!r} among the {kind}: take one of {', '.join(known)}")


def load(package: str, name: str) -> ModuleType:
    """The plug-in of that name. Raises as `check` does."""
    check(package, name)
    return importlib.import_module(f"{package}.{name}")
