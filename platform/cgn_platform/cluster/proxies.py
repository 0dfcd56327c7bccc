"""Proxies of the environment: requests to this machine bypass them.

Ray's and MLflow's clients honour `http_proxy` for servers on the loopback address too: a token would be sent
to the proxy in clear.
"""

from collections.abc import Mapping, MutableMapping

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def proxies_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that name a proxy, in either case."""
    names = (variant for name in PROXIES for variant in (name, name.upper()))
    return {name: environment[name] for name in names if environment.get(name)}


def exemption(environment: Mapping[str, str]) -> dict[str, str]:
    """`no_proxy` in both cases, with this machine added; empty if no proxy is set."""
    if not proxies_of(environment):
        return {}
    entries = [
        entry.strip()
        for name in ("no_proxy", "NO_PROXY")
        for entry in environment.get(name, "").split(",")
        if entry.strip()
    ]
    value = ",".join(dict.fromkeys([*entries, *LOOPBACK_HOSTS]))
    return {"no_proxy": value, "NO_PROXY": value}


def exempt_loopback(environment: MutableMapping[str, str]) -> None:
    """Add this machine to `no_proxy` if a proxy is set."""
    environment.update(exemption(environment))
