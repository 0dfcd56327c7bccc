import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from cgn_platform.store.layout import Store
from cgn_platform.tracking.mlflow_client import (
    ENVIRONMENT,
    artifact_location,
    connect,
    default_uri,
    make_database,
    quiet_mlflow,
)


def test_the_address_is_the_environments_or_a_file_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Path("/s"))
    assert default_uri(store) == "sqlite:////s/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri(store) == "http://127.0.0.1:5000"


@pytest.mark.parametrize("name", ["fifty%20percent", "what?x=1"])
def test_mlflow_keeps_its_runs_and_files_in_a_folder_with_any_name(
    tmp_path: Path, empty_database: Path, name: str
) -> None:
    store = Store(tmp_path / name)
    store.root.mkdir()
    shutil.copy(empty_database, store.mlflow_database)
    _, client = connect(default_uri(store))
    experiment = client.create_experiment("e", artifact_location(store.mlflow_artifacts))
    run = client.create_run(experiment).info.run_id
    client.log_dict(run, {"a": 1}, "a.json")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (path,) = store.mlflow_artifacts.rglob("a.json")
    assert json.loads(path.read_text()) == {"a": 1}


def test_mlflow_is_imported_quietly_and_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("GIT_PYTHON_REFRESH", raising=False)
    with quiet_mlflow() as mlflow:
        assert mlflow.__name__ == "mlflow"
    assert logging.getLogger("mlflow").level == logging.ERROR
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert os.environ["GIT_PYTHON_REFRESH"] == ENVIRONMENT["GIT_PYTHON_REFRESH"]


def test_a_process_that_is_killed_while_mlflow_creates_its_tables_leaves_no_part_of_them(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mlflow.db"

    def killed(draft: str) -> None:
        Path(draft.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(f"sqlite:///{path}", killed)
    assert not path.exists()
    make_database(f"sqlite:///{path}", lambda draft: Path(draft[10:]).touch(exist_ok=False))
    assert path.exists()
    make_database(f"sqlite:///{path}", killed)  # it exists: nothing is created
