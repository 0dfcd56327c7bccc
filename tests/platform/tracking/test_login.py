"""The login of this store's MLflow reaches MLflow's client, and no other server."""

import stat
from pathlib import Path

import pytest

from cgn_platform.store.layout import Store
from cgn_platform.tracking.login import read_login, use_login, write_login
from cgn_platform.tracking.mlflow_client import default_uri

SERVER = "http://127.0.0.1:5000"


def test_a_login_is_private_and_its_password_is_kept(store: Store) -> None:
    first = write_login(store, SERVER)
    store.mlflow_login.chmod(0o644)
    assert read_login(store.mlflow_login) == first
    second = write_login(store, "http://127.0.0.1:5001")
    assert (second.password, second.uri) == (first.password, "http://127.0.0.1:5001")
    assert stat.S_IMODE(store.mlflow_login.stat().st_mode) == 0o600
    assert len(first.password) == 32


@pytest.mark.parametrize("content", ["", "x", "MLFLOW_TRACKING_URI=http://127.0.0.1:5000\n"])
def test_a_damaged_file_is_no_login(store: Store, content: str) -> None:
    store.mlflow_login.write_text(content)
    assert read_login(store.mlflow_login) is None
    assert write_login(store, SERVER).password


@pytest.mark.parametrize("uri", [SERVER, "http://localhost:5000", "http://[::1]:5000/"])
def test_the_own_server_gets_it(store: Store, uri: str) -> None:
    login, variables = write_login(store, SERVER), dict[str, str]()
    use_login(store, uri, variables)
    assert variables == {
        "MLFLOW_TRACKING_USERNAME": login.user, "MLFLOW_TRACKING_PASSWORD": login.password
    }  # fmt: skip


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:5001", "http://mlflow.example:5000", "https://127.0.0.1:5000", "sqlite:///x.db"]
)
def test_no_other_server_gets_it(store: Store, uri: str) -> None:
    write_login(store, SERVER)
    variables = dict[str, str]()
    use_login(store, SERVER, variables)
    use_login(store, uri, variables)
    assert variables == {}
    others = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "mine"}
    use_login(store, uri, others)
    assert others["MLFLOW_TRACKING_PASSWORD"] == "mine"


def test_a_server_in_a_container_is_known_by_its_name(store: Store) -> None:
    login = write_login(store, "http://mlflow:5000")
    assert login.is_for("http://mlflow:5000/")
    assert not login.is_for("http://mlflow:5001")
    assert not login.is_for("http://127.0.0.1:5000")
    assert not login.is_for("http://mlflow.example:5000")


def test_addresses_from_options_and_the_environment_are_logged_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    login = write_login(store, SERVER)
    assert default_uri(store, SERVER) == SERVER
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == login.password
    assert default_uri(store) == f"sqlite:///{Path(store).resolve()}/mlflow.db"
    assert "MLFLOW_TRACKING_PASSWORD" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert default_uri(store) == SERVER
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == login.password
