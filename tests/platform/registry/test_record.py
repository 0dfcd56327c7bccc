"""The record of decisions outlives kills, and one decision is made at a time."""

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from cgn.errors import RegistryError
from cgn_platform.registry import record
from cgn_platform.registry.record import append_record, one_decision_at_a_time, read_record
from cgn_platform.registry.registry import Version
from cgn_platform.store.layout import Store

EVIDENCE: dict[str, Any] = {
    "decision": {"when": "2026", "model": "cgn", "alias": "champion", "by": "ada", "because": ""},
    "gate": {"checks": []},
}


def test_a_line_names_the_version_by_its_tags_if_there_is_no_candidate(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert read_record(store) == []
    version = Version("2", {"cgn.name": "three", "cgn.row": "good"})
    append_record(store, "rolled back", EVIDENCE, version, Version("3", {}))
    (line,) = read_record(store)
    assert (line["name"], line["row"], line["version"], line["champion"]) == ("three", "good", "2", "3")


def test_a_line_that_was_not_finished_is_skipped_and_harms_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    append_record(store, "promoted", EVIDENCE, Version("1", {}), None)
    with store.promotions.open("a") as file:
        file.write('{"when": "2026-')
    append_record(store, "promoted", EVIDENCE, Version("2", {}), None)
    assert [line["version"] for line in read_record(store)] == ["1", "2"]


def test_a_second_decision_waits_and_then_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LOCK_SECONDS", 0.1)
    store = Store(tmp_path)
    with one_decision_at_a_time(store):
        pass
    with (
        FileLock(store.locks / "promotions.lock"),
        pytest.raises(RegistryError, match="another promotion is running in"),
        one_decision_at_a_time(store),
    ):
        pytest.fail("two decisions at once")
