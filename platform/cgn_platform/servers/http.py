"""Ask a server on HTTP whether it answers."""

import contextlib
import http.client
import urllib.parse
from collections.abc import Mapping


def status(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """What a server answers to GET; None where nothing answers."""
    answer = get(url, headers or {})
    return None if answer is None else answer[0]


def get(url: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=5)) as connection:
            connection.request("GET", parts.path or "/", headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException):
        return None
