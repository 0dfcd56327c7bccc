"""Databases of studies, opened to be read."""

from pathlib import Path

import optuna
import pytest

from cgn_platform import database
from cgn_platform.study import make_tables


def look_but_not_touch(url: str) -> None:
    make_tables(url)
    optuna.create_study(study_name="s", storage=url)
    there = optuna.storages.RDBStorage(
        database.read_only(url), skip_compatibility_check=True, skip_table_creation=True
    )
    try:
        assert [study.study_name for study in there.get_all_studies()] == ["s"]
        with pytest.raises(optuna.exceptions.StorageInternalError):
            there.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "mine")
    finally:
        there.remove_session()
        there.engine.dispose()


def test_a_file_that_is_opened_to_be_read_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "a store #1"
    look_but_not_touch(f"sqlite:///{folder / 'studies.db'}")


@pytest.mark.integration
def test_nor_a_postgres(database: str) -> None:
    look_but_not_touch(database)
