"""A Postgres of the tests' own: on a Unix socket only, in a folder that goes with it."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS = 30  # until it must answer


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`, as Debian's packages lay them out or as the path finds them."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
    return next((f for f in reversed(folders) if (f / "initdb").exists()), None)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """An address with `{}` for the database's name; it ends, by its own process, with the block."""
    where = programs()
    if where is None:
        raise FileNotFoundError("no Postgres: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="cgnpg-", dir="/tmp"))
    owner = _owner()
    if owner is not None:
        os.chown(folder, owner, -1)
    data, log = folder / "data", folder / "log"
    try:
        subprocess.run(
            [where / "initdb", "-D", data, "-U", "cgn", "-A", "trust", "-E", "UTF8", "--no-sync"],
            **_as(owner, folder),
            check=True,
            capture_output=True,
        )
        command = [where / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, **_as(owner, folder), stdout=file, stderr=file)
        try:
            _wait(process, folder, log)
            yield f"postgresql+psycopg://cgn@/{{}}?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # the fast shutdown: sessions are ended
            process.wait(SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def database(address: str, name: str) -> Iterator[str]:
    """An empty database of this server; its address."""
    import psycopg

    plain = address.replace("+psycopg", "").format("postgres")
    with contextlib.closing(psycopg.connect(plain, autocommit=True)) as session:
        session.execute(f"CREATE DATABASE {name}")
        try:
            yield address.format(name)
        finally:
            session.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _owner() -> int | None:
    """Postgres refuses to run as root: then somebody else does."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    raise RuntimeError("Postgres does not run as root, and there is neither a user postgres nor nobody")


def _as(owner: int | None, folder: Path) -> dict[str, Any]:
    somebody = {} if owner is None else {"user": owner, "extra_groups": []}
    return {**somebody, "cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}


def _wait(process: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(f"postgresql://cgn@/postgres?host={folder}").close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"Postgres did not start: {log.read_text()}")
