"""Proxies of the environment: requests to this machine and to its cloud's metadata service bypass them.

Ray's and MLflow's clients honour `http_proxy` for servers on the loopback address too: a token would be sent
to the proxy in clear. Ray asks the metadata services which cloud it runs in, even if its usage statistics are
off; these addresses are of the machine's own host or of none.
"""

from collections.abc import Mapping, MutableMapping

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
METADATA_HOSTS = ("169.254.169.254", "metadata.google.internal")
NO_PROXY = ("no_proxy", "NO_PROXY")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def proxies_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that name a proxy, in either case."""
    names = (variant for name in PROXIES for variant in (name, name.upper()))
    return {name: environment[name] for name in names if environment.get(name)}


def exemption(environment: Mapping[str, str]) -> dict[str, str]:
    """`no_proxy` in both cases, with the exempt hosts added; empty if no proxy is set."""
    if not proxies_of(environment):
        return {}
    entries = [
        entry.strip() for name in NO_PROXY for entry in environment.get(name, "").split(",") if entry.strip()
    ]
    return dict.fromkeys(NO_PROXY, ",".join(dict.fromkeys([*entries, *LOOPBACK_HOSTS, *METADATA_HOSTS])))


def exempts_loopback(environment: Mapping[str, str]) -> bool:
    """Whether `no_proxy` names this machine already, in every case in which it is set."""
    from requests.utils import should_bypass_proxies  # late: every command imports this module

    values = [environment[name] for name in NO_PROXY if environment.get(name)]
    urls = [f"http://{host}" for host in LOOPBACK_HOSTS[:2]]
    return bool(values) and all(should_bypass_proxies(url, value) for value in values for url in urls)


def exempt_loopback(environment: MutableMapping[str, str]) -> None:
    """Add the exempt hosts to `no_proxy` if a proxy is set."""
    environment.update(exemption(environment))
