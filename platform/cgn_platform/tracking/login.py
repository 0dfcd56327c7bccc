"""The login of the MLflow that `cgn up` starts: a file in the store that only its owner can read.

The file holds three variables of MLflow's own client, so that a shell can load it as well:
`set -a; . runs/mlflow.env; set +a`.
"""

import base64
import contextlib
import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from cgn import files
from cgn_platform.cluster.proxies import LOOPBACK_HOSTS
from cgn_platform.store.layout import Store

USER = "cgn"
URI, USERNAME, PASSWORD = "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


class Login(NamedTuple):
    """A server of `cgn up`, and what it requires."""

    uri: str
    user: str
    password: str

    @property
    def headers(self) -> dict[str, str]:
        """The header that the server requires (RFC 7617)."""
        coded = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {coded}"}

    def is_for(self, uri: str) -> bool:
        """Whether this address is the server: the same port of the same host, or of this machine."""
        own, other = urlsplit(self.uri), urlsplit(uri)
        here = own.hostname in LOOPBACK_HOSTS and other.hostname in LOOPBACK_HOSTS
        return other.scheme == "http" and other.port == own.port and (here or other.hostname == own.hostname)


def read_login(path: Path) -> Login | None:
    """The login in this file; None if there is none that this account can read."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = path.read_text().splitlines()
        values = dict(line.split("=", 1) for line in lines if line)
        return Login(values[URI], values[USERNAME], values[PASSWORD])
    return None


def write_login(store: Store, uri: str) -> Login:
    """Write the login of the server at this address, readable for its owner only. A password is kept."""
    known = read_login(store.mlflow_login)
    login = Login(uri, USER, known.password if known and known.password else secrets.token_hex(16))
    lines = [f"{URI}={login.uri}", f"{USERNAME}={login.user}", f"{PASSWORD}={login.password}", ""]
    files.write(store.mlflow_login, "\n".join(lines), private=True)
    store.mlflow_login.chmod(0o600)
    return login


def use_login(store: Store, uri: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Give MLflow's client the login of this store's server, and no other server that login."""
    login = read_login(store.mlflow_login)
    if login is None:
        return
    if login.is_for(uri):
        environment.update({USERNAME: login.user, PASSWORD: login.password})
    elif environment.get(PASSWORD) == login.password:
        environment.pop(USERNAME, None)
        environment.pop(PASSWORD, None)
