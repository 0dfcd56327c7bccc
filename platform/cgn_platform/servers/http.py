"""Ask a server over HTTP whether it answers."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

TIMEOUT_SECONDS = 5


def get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, str] | None:
    """Status and text of the answer to GET; None if nothing answers."""
    with requests.Session() as session:
        session.trust_env = not is_loopback(urlsplit(url).hostname or "")  # no proxy for this machine
        try:
            answer = session.get(
                url, headers=dict(headers or {}), timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
        except (requests.RequestException, ValueError):
            return None
        return answer.status_code, answer.text


def status(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """Status of the answer to GET; None if nothing answers."""
    answer = get(url, headers)
    return None if answer is None else answer[0]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
