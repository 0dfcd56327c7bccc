"""Addresses of databases."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from cgn.errors import ConfigError
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


def test_a_read_only_file_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "a store #1"
    check_read_only(f"sqlite:///{folder / 'studies.db'}")


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
