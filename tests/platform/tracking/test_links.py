import shlex
from pathlib import Path

import pytest

from cgn_platform.store.layout import Store
from cgn_platform.tracking import links
from cgn_platform.tracking.outbox import Outbox


def note(store: Store, study_id: str, time: int, **more: str) -> None:
    with Outbox(store.outbox(study_id)) as outbox:
        outbox.note(parent={"study": "smoke", "time": time}, **more)


def test_the_page_of_a_name_is_that_of_its_newest_study(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert not links.is_tracked(store, "smoke")
    note(store, "a", 2)
    assert links.is_tracked(store, "smoke")
    assert links.page_of(store, "smoke") == links.PAGE  # MLflow does not have it yet
    note(store, "b", 3, page="the newest")
    note(store, "c", 1, page="an older one")
    assert links.page_of(store, "smoke") == "the newest"
    assert links.page_of(store, "never tracked") == links.PAGE


def test_reading_the_page_changes_no_outbox_not_even_a_damaged_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    note(store, "a", 2)
    (damaged,) = store.outbox("a").iterdir()
    damaged.write_bytes(b"no database" * 1000)
    assert links.page_of(store, "smoke") == links.PAGE
    assert damaged.read_bytes() == b"no database" * 1000
    assert list(store.outbox("a").iterdir()) == [damaged]


def test_how_to_look_is_an_address_or_a_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "runs")
    assert links.how_to_look(store, "http://127.0.0.1:5000", "#/p") == "http://127.0.0.1:5000/#/p"
    command, address = links.how_to_look(store, "sqlite:////s/mlflow.db", "#/p").splitlines()
    assert command.endswith("/cgn mlflow")
    assert address == "and open http://127.0.0.1:5000/#/p"


def test_the_command_can_be_pasted_into_a_shell_and_shows_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "a b" / "$(date)")
    for uri in ("sqlite:///x/mlflow.db", "postgresql+psycopg://me:secret@host/mlflow"):
        command = links.how_to_look(store, uri).splitlines()[0]
        assert shlex.split(command)[1:] == ["mlflow", "--store", "a b/$(date)"]
    assert "secret" not in links.how_to_look(store, "http://me:secret@host:5000")
