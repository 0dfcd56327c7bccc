"""Addresses of databases."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from cgn.errors import ConfigError, StudyError
from cgn_platform.search import study_lock
from cgn_platform.search.study import create_tables
from cgn_platform.store import databases
from cgn_platform.store.databases import hidden, study_url
from cgn_platform.store.layout import Store


@contextlib.contextmanager
def storage(url: str, **options: bool) -> Iterator[optuna.storages.RDBStorage]:
    opened = optuna.storages.RDBStorage(url, **options)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


def check_read_only(url: str) -> None:
    create_tables(url)
    directions = [optuna.study.StudyDirection.MAXIMIZE]
    with storage(url) as writable:
        writable.create_new_study(directions, "s")
    # As Optuna's dashboard opens it.
    with storage(databases.read_only(url), skip_compatibility_check=True, skip_table_creation=True) as read:
        assert [study.study_name for study in read.get_all_studies()] == ["s"]
        with pytest.raises(optuna.exceptions.StorageInternalError):
            read.create_new_study(directions, "another")


@pytest.mark.parametrize("name", ["a store #1", "fifty%20percent", "what?mode=ro"])
def test_a_read_only_file_cannot_be_written(tmp_path: Path, name: str) -> None:
    check_read_only(databases.sqlite_url(tmp_path / name / "studies.db"))
    assert [path.name for path in tmp_path.iterdir()] == [name]


FOLDERS = (
    *("plain", "a b", "fifty%20percent", "100%", "%2e%2e", "what?x=1", "#1", "é:@;&+='", "a:b@c"),
    *("~", 'quote"', "back\\slash", "line\nbreak"),
)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_address_of_a_path_leads_to_this_path(name: str) -> None:
    path = Path("/folder", name, "x.db")
    url = databases.sqlite_url(path)
    parsed = make_url(url)
    assert (parsed.database, dict(parsed.query)) == (str(path), {})
    assert databases.sqlite_path(url) == path
    assert hidden(url) == url
    if not set("%?") & set(name):
        assert url == f"sqlite:///{path}"  # addresses that were recorded stay valid


@pytest.mark.parametrize("url", ["sqlite:////a%20b/x.db", "sqlite:////a/x.db?timeout=5", "sqlite:///x.db"])
def test_addresses_are_read_as_sqlalchemy_reads_them(url: str) -> None:
    assert str(databases.sqlite_path(url)) == make_url(url).database


def test_two_stores_whose_names_decode_to_one_have_a_database_each(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("fifty percent", "fifty%20percent")]
    for store in stores:
        store.root.mkdir()
    create_tables(databases.sqlite_url(stores[1].studies))
    assert not list(stores[0].root.iterdir())
    study_lock.check_database(study_url(stores[1]))
    stores[0].studies.write_bytes(b"no database" * 100)
    study_lock.check_database(study_url(stores[1]))
    with pytest.raises(StudyError, match="fifty percent"):
        study_lock.check_database(study_url(stores[0]))


@pytest.mark.integration
def test_a_read_only_postgres_cannot_be_written(database: str) -> None:
    check_read_only(database)


def test_studies_are_in_the_store_unless_another_database_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CGN_STUDY_URL", raising=False)
    assert study_url(store) == f"sqlite:///{store.studies}"
    monkeypatch.setenv("CGN_STUDY_URL", "postgresql+psycopg:///cgn")
    assert study_url(store) == "postgresql+psycopg:///cgn"


def test_one_database_for_studies_and_mlflow_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both write a table `alembic_version`."""
    monkeypatch.setenv("CGN_STUDY_URL", "postgresql+psycopg:///cgn")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg:///cgn")
    with pytest.raises(ConfigError, match=r"CGN_STUDY_URL and MLFLOW_TRACKING_URI.*its own database"):
        study_url(store)


def test_other_databases_are_refused_and_passwords_hidden() -> None:
    with pytest.raises(ConfigError, match=r"postgresql\+psycopg:// but got mysql:") as error:
        databases.sqlite_path("mysql://me:secret@host/cgn")
    assert "secret" not in str(error.value)
    assert hidden("postgresql+psycopg://me:secret@host/cgn") == "postgresql+psycopg://me:***@host/cgn"
    assert hidden("postgresql+psycopg:///cgn?password=secret&host=x").endswith("?password=***&host=x")
