"""Full disks, locked databases, damaged files: said in a line, and mended by the same command."""

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

# Every configuration is fixed, so that a study made anew asks for the same ones.
FIXED = [{"alpha": alpha} for alpha in (0.9, 0.7, 0.3, 0.6, 0.8)]
SPACE = {"trials": 6, "base": {"epochs": 4, "beta": 30}, "first": FIXED}


class Disk:
    """A small one, that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._ballast = folder, folder / "ballast"

    def fill(self, leave: int) -> None:
        free = shutil.disk_usage(self.folder).free
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            file.write(bytes(max(0, free - leave)))

    def empty(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk() -> Iterator[Disk]:
    folder = Path(tempfile.mkdtemp(prefix="cgnd-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def test_a_full_ledger(
    disk: Disk, nodes: Any, drive: Any, store: Path, assert_whole: Callable[..., Any]
) -> None:
    units = disk.folder / "units"
    disk.fill(leave=120_000)  # of about 300,000 that the units take
    driver = drive(nodes.address, space=SPACE, ledger=str(units), checkpoint_every=1)
    assert driver.wait() == 2, driver.told
    assert "No space left on device" in driver.told.splitlines()[-1]
    assert driver.told.splitlines()[-1].startswith("unit ")
    assert not list(units.rglob("*.tmp"))
    disk.empty()
    again = drive(nodes.address, space=SPACE, ledger=str(units), checkpoint_every=1)
    assert again.wait() == 0, again.told
    assert_whole(store, 6, units=units)


def test_a_full_store(
    disk: Disk, nodes: Any, drive: Any, store: Path, assert_whole: Callable[..., Any]
) -> None:
    """The study's database ends the sweep; what people look at does not."""
    home = disk.folder / "store"
    home.mkdir()
    slow = home / "slow"
    slow.touch()
    driver = drive(nodes.address, at=str(home), space=SPACE, ledger=str(store.root / "units"))
    driver.hear("complete")
    disk.fill(leave=0)
    slow.unlink()
    assert driver.wait() == 2, driver.told
    assert "the study's database cannot be used" in driver.told.splitlines()[-1]
    disk.empty()
    again = drive(nodes.address, at=str(home), space=SPACE, ledger=str(store.root / "units"))
    assert again.wait() == 0, again.told
    assert_whole(home, 6, units=store.root / "units")


@pytest.mark.parametrize("name", ["studies.db", "mlflow.db"])
def test_a_locked_database(
    name: str,
    nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
) -> None:
    """Somebody looks at it with a heavy hand: the driver waits, or the tracker sends it later."""
    driver = drive(nodes.address, space=SPACE)
    driver.hear("started")
    time.sleep(moments.uniform(0, 3))
    assert driver.runs, driver.told
    with contextlib.closing(sqlite3.connect(store / name, timeout=30, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        slow.unlink()
        time.sleep(moments.uniform(1, 8))
        lock.execute("ROLLBACK")
    assert driver.wait() == 0, driver.told
    assert_whole(store, 6)


def flip(path: Path, moments: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
    path.write_bytes(content)


def cut(path: Path, moments: random.Random) -> None:
    os.truncate(path, moments.randrange(path.stat().st_size))


def test_damaged_units(
    nodes: Any,
    drive: Any,
    store: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """A study made anew reads what is whole, and trains what is not."""
    first = drive(nodes.address, space=SPACE)
    assert first.wait() == 0, first.told
    before = assert_whole(store, 6)
    stood = finished_files(store.root / "units")
    for harm in (flip, flip, cut, cut):
        path = moments.choice(sorted(stood))
        harm(path, moments)
        stood = {there: content for there, content in stood.items() if there.parent != path.parent}
    for name in ("studies.db", "mlflow.db"):
        (store / name).unlink()
    shutil.rmtree(store.root / "outbox")
    again = drive(nodes.address, space=SPACE)
    assert again.wait() == 0, again.told
    after = assert_whole(store, 6, stood=stood)
    assert [record.params for record in after] == [record.params for record in before]
    for one, other in zip(before, after, strict=True):
        if one.state == other.state == "complete":
            assert (one.value, one.facts["units"]) == (other.value, other.facts["units"])


@pytest.mark.parametrize("harm", [flip, cut])
def test_damaged_checkpoints(
    harm: Callable[[Path, random.Random], None],
    nodes: Any,
    drive: Any,
    store: Path,
    slow: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
    wait_until: Callable[..., Any],
) -> None:
    """They are not trained on: those folds begin again."""
    driver = drive(nodes.address, space=SPACE, checkpoint_every=1)
    driver.hear("started")
    wait_until(lambda: len(list((store.root / "units").glob("*/at-*"))) > 2)
    driver.kill()
    driver.wait()
    wait_until(lambda: not nodes.workers())
    for path in (store.root / "units").glob("*/at-*"):
        harm(path, moments)
    slow.unlink()
    again = drive(nodes.address, space=SPACE, checkpoint_every=1)
    assert again.wait() == 0, again.told
    assert_whole(store, 6)


def test_a_damaged_shard_of_the_cache(
    nodes: Any, drive: Any, store: Path, cache: Path, moments: random.Random, assert_whole: Callable[..., Any]
) -> None:
    """Refused before anything is written, at any moment of the study's life."""
    options = {"space": SPACE, "cache": str(cache)}
    shard = next(cache.glob("pairs-*.parquet"))
    content = shard.read_bytes()
    for harm in (flip, cut):
        harm(shard, moments)
        driver = drive(nodes.address, **options)
        assert driver.wait() == 2, driver.told
        assert shard.name in driver.told
        assert "damaged" in driver.told
        assert not (store.root / "studies.db").exists()
        shard.write_bytes(content)
    last = drive(nodes.address, **options)
    assert last.wait() == 0, last.told
    assert_whole(store, 6, experiment="phantom")
