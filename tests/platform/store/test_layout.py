"""The paths of a store."""

import json
import os
from pathlib import Path

import pytest

from cgn.errors import ConfigError
from cgn_platform.store.layout import Store


def test_a_store_is_its_folder_and_creates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    assert os.fspath(store) == str(store) == str(tmp_path / "runs")
    assert store.reported() == []
    assert store.outboxes() == []
    assert store.cache_with("c0ffee") is None
    assert not store.root.exists()


def test_reports_outboxes_and_caches_are_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("table_4", "alpha"):
        store.report(name).folder.mkdir(parents=True)
        store.report(name).facts.write_text("{}")
    store.report("without-facts").folder.mkdir()
    assert store.reported() == ["alpha", "table_4"]
    store.outbox("5eed").mkdir(parents=True)
    (tmp_path / "outbox" / "a-file").touch()
    assert store.outboxes() == [store.outbox("5eed")]
    cache = store.caches / "phantom-32-c0ffee"
    cache.mkdir(parents=True)
    (cache / "manifest.json").write_text(json.dumps({"fingerprint": "c0ffee"}))
    assert store.cache_with("c0ffee") == cache
    assert store.cache_with("decaf") is None


def test_names_do_not_lead_out_of_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for lookup in (store.report, store.outbox):
        with pytest.raises(ConfigError, match="must consist of at most"):
            lookup("../../x")


def test_a_new_store_is_for_its_owner_only_and_an_existing_one_keeps_its_mode(tmp_path: Path) -> None:
    store = Store(tmp_path / "project" / "runs")
    store.make()
    assert [folder.stat().st_mode & 0o777 for folder in (store.root, store.root.parent)] == [0o700, 0o700]
    store.root.chmod(0o750)
    store.make()
    assert store.root.stat().st_mode & 0o777 == 0o750
