"""Temporary folders: short, private, and removed if their driver was killed."""

import stat

import psutil
import pytest

from cgn_platform.cluster import temporary
from cgn_platform.store.layout import Store


def test_folders_of_killed_drivers_are_removed_and_no_others(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(store))
    ended = max(psutil.pids()) + 100_000
    for name in (f"cgn-{ended}-x", f"cgnup-{ended}-x"):
        (store.root / name).mkdir()
    temporary.remove_leftovers()
    assert [path.name for path in store.root.iterdir()] == [f"cgnup-{ended}-x"]


def test_a_scratch_folder_is_private_and_removed_at_the_end(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(store))
    with temporary.scratch() as folder:
        assert folder.parent == store.root
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "file").touch()
    assert not folder.exists()


def test_a_path_too_long_for_sockets_is_not_used(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"{store}/{'x' * 20}")
    with temporary.scratch() as folder:
        assert len(str(folder.parent)) <= temporary.LONGEST_BASE
