"""Which requests a server on the loopback address answers.

Every account of a machine can connect to its loopback address, and so can every web page that a browser on it
displays. A page of another site is recognised by the headers `Host` (a name of its own that resolves to this
machine) and `Origin`; another account by the password that it does not have.

MLflow's own `basic-auth` is not used: it needs a package that is not installed, keeps a database of users,
and would not restrict artifact locations. The rules are applied to ASGI and to WSGI applications.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cgn.errors import ClusterError
from cgn_platform.cluster.proxies import LOOPBACK_HOSTS
from cgn_platform.tracking.login import read_login

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

OPEN_PATHS = frozenset({"/health", "/ping", "/version"})
"""Answered without a login: they say nothing about the content."""


@dataclass(frozen=True)
class Refusal:
    """An answer in place of the application's."""

    status: HTTPStatus
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Guard:
    """The rules of one server.

    Attributes:
        authorization: the header that the server requires; None if it requires no login.
        hint: where the login is written down, for the text of a refusal.
        max_bytes: of a request's body; None for any size.
        hosts: names of this server, without a port.
    """

    authorization: str | None = None
    hint: str = ""
    max_bytes: int | None = None
    hosts: tuple[str, ...] = LOOPBACK_HOSTS

    def refusal(self, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why a request is refused; None if the application answers.

        Args:
            path: of the request.
            headers: by their names in lower case.
        """
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if _host_name(host) not in self.hosts:
            return Refusal(
                HTTPStatus.FORBIDDEN, f"Host must be one of {', '.join(self.hosts)} but is {host!r}"
            )
        if origin is not None and origin.lower().partition("://")[2] != host:
            return Refusal(HTTPStatus.FORBIDDEN, f"Origin must be http://{host} but is {origin!r}")
        length = headers.get("content-length", "0")
        if self.max_bytes is not None and length.isdecimal() and int(length) > self.max_bytes:
            return Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a request may have {self.max_bytes} bytes but has {length}: send fewer pairs of films, or "
                "predict a table of films with 'cgn predict --manifest'",
            )
        if self.authorization is None or path in OPEN_PATHS:
            return None
        if hmac.compare_digest(headers.get("authorization", "").encode(), self.authorization.encode()):
            return None
        return Refusal(
            HTTPStatus.UNAUTHORIZED,
            f"a login is required: {self.hint}",
            {"WWW-Authenticate": 'Basic realm="cgn up"'},
        )

    @classmethod
    def with_login(cls, path: Path, *names: str) -> "Guard":
        """The rules of a server that requires the login in this file, and has these names as well.

        Raises:
            ClusterError: there is none.
        """
        login = read_login(path)
        if login is None:
            raise ClusterError(f"no login at {path}", remedy="start the server with 'cgn up'")
        hosts = (*LOOPBACK_HOSTS, *names)
        return cls(login.headers["Authorization"], f"user and password are in {path}", hosts=hosts)

    def asgi(self, app: "ASGIApp") -> "ASGIApp":
        """The application behind these rules."""
        from starlette.middleware.body_limit import RequestBodyLimitMiddleware
        from starlette.responses import PlainTextResponse

        if self.max_bytes is not None:  # of bodies whose size is not announced
            app = RequestBodyLimitMiddleware(app, self.max_bytes)

        async def guarded(scope: "Scope", receive: "Receive", send: "Send") -> None:
            if scope["type"] == "lifespan":
                await app(scope, receive, send)
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            refusal = self.refusal(scope["path"], headers)
            if refusal is None:
                await app(scope, receive, send)
            elif scope["type"] == "http":
                if refusal.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                    await _discard(receive)
                answer = PlainTextResponse(f"{refusal.text}\n", refusal.status, dict(refusal.headers))
                await answer(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})

        return guarded

    def wsgi(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """The application behind these rules."""

        def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            headers = {
                name.removeprefix("HTTP_").replace("_", "-").lower(): value
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            refusal = self.refusal(environ.get("PATH_INFO", ""), headers)
            if refusal is None:
                return app(environ, start_response)
            status = f"{refusal.status.value} {refusal.status.phrase}"
            start_response(status, [("Content-Type", "text/plain"), *refusal.headers.items()])
            return [f"{refusal.text}\n".encode()]

        return guarded


async def _discard(receive: "Receive") -> None:
    """Read a body, and keep nothing of it: clients that are still sending do not read an answer."""
    while (await receive()).get("more_body"):
        pass


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
