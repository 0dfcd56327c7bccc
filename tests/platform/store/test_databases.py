"""Databases of studies, opened to be read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from cgn_platform.search.study import make_tables
from cgn_platform.store import databases


@contextlib.contextmanager
def storage(url: str, **options: bool) -> Iterator[optuna.storages.RDBStorage]:
    opened = optuna.storages.RDBStorage(url, **options)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


def look_but_not_touch(url: str) -> None:
    make_tables(url)
    up = [optuna.study.StudyDirection.MAXIMIZE]
    with storage(url) as written:
        written.create_new_study(up, "s")
    # As Optuna's dashboard opens it.
    with storage(databases.read_only(url), skip_compatibility_check=True, skip_table_creation=True) as read:
        assert [study.study_name for study in read.get_all_studies()] == ["s"]
        with pytest.raises(optuna.exceptions.StorageInternalError):
            read.create_new_study(up, "mine")


def test_a_file_that_is_opened_to_be_read_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "a store #1"
    look_but_not_touch(f"sqlite:///{folder / 'studies.db'}")


@pytest.mark.integration
def test_nor_a_postgres(database: str) -> None:
    look_but_not_touch(database)
