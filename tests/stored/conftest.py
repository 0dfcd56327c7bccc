"""A store that the code of commit 0cfa8ab wrote, unpacked; see `tests/fixtures/README.md`."""

import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "store_0cfa8ab.tar.xz"
MADE_AT = "/srv/cgn"  # in databases and facts; replaced by the folder that it is unpacked to

# What third parties warn of while they are imported or end.
THIRD_PARTIES = (
    "ignore::DeprecationWarning:(ray|mlflow|google|pydantic|starlette|fastapi|alembic)",
    "ignore:unclosed:ResourceWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            for ignored in THIRD_PARTIES:
                item.add_marker(pytest.mark.filterwarnings(ignored))


def move(folder: Path, before: str, after: str) -> None:
    """Replace a path in the databases and in the facts of reports; sealed files contain none."""
    for path in (folder / "runs").glob("*.db"):
        with closing(sqlite3.connect(path)) as database, database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                    database.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '  # noqa: S608 - names from the file itself
                        f'WHERE typeof("{column}") = \'text\' AND instr("{column}", ?)',
                        (before, after, before),
                    )
    for path in (folder / "runs" / "reports").glob("*/*.json"):
        path.write_text(path.read_text().replace(before, after))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it was packed."""
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(folder, filter="data")
    return folder / "cgn"


@pytest.fixture(scope="session")
def expected(archive: Path) -> dict[str, Any]:
    """What the code that wrote the store read from it."""
    read: dict[str, Any] = json.loads((archive / "expected.json").read_text())
    return read


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy for tests that only read; its store is the folder `runs`."""
    folder = tmp_path_factory.mktemp("read") / "cgn"
    shutil.copytree(archive, folder)
    move(folder, MADE_AT, str(folder))
    return folder


@pytest.fixture
def writable(archive: Path) -> Iterator[Path]:
    """A copy for one test, at a short path: Ray's sockets may be below it."""
    folder = Path(tempfile.mkdtemp(prefix="cgnt-"))
    shutil.copytree(archive, folder, dirs_exist_ok=True)
    move(folder, MADE_AT, str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def environment() -> dict[str, str]:
    """For child processes: nothing that leads to another store, Ray or MLflow."""
    ours = ("CGN_", "RAY_", "MLFLOW_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CGN_STUDY_URL", "CGN_STORE", "CGN_LEDGER"):
        monkeypatch.delenv(name, raising=False)
