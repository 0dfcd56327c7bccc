"""Full disks, locked databases, damaged files: reported in a line, and repaired by the same command."""

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

from cgn_platform.store.layout import Store

pytestmark = pytest.mark.timeout(240)

# Every configuration is given, so that a new study has the same ones.
FIXED = [{"alpha": alpha} for alpha in (0.9, 0.7, 0.3, 0.6, 0.8)]
SPACE = {"trials": 6, "base": {"epochs": 4, "beta": 30}, "first": FIXED}


class Disk:
    """A small disk that can be filled."""

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
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def test_a_full_ledger(
    disk: Disk, nodes: Any, drive: Any, store: Store, assert_whole: Callable[..., Any]
) -> None:
    units = disk.folder / "units"
    disk.fill(leave=120_000)  # of about 300,000 that the units take
    driver = drive(nodes.address, space=SPACE, ledger=str(units), checkpoint_every=1)
    assert driver.wait() == 2, driver.output
    assert "No space left on device" in driver.output.splitlines()[-1]
    assert driver.output.splitlines()[-1].startswith("unit ")
    assert not list(units.rglob("*.tmp"))
    disk.empty()
    again = drive(nodes.address, space=SPACE, ledger=str(units), checkpoint_every=1)
    assert again.wait() == 0, again.output
    assert_whole(store, 6, units=units)


def test_a_full_store(
    disk: Disk, nodes: Any, drive: Any, store: Store, assert_whole: Callable[..., Any]
) -> None:
    """The study's database ends the sweep; MLflow alone would not."""
    home = Store(disk.folder / "store")
    home.root.mkdir()
    slow = home.root / "slow"
    slow.touch()
    driver = drive(nodes.address, at=home, space=SPACE, ledger=str(store.units))
    driver.wait_for("complete")
    disk.fill(leave=0)
    slow.unlink()
    assert driver.wait() == 2, driver.output
    assert "studies.db cannot be used" in driver.output.splitlines()[-1]
    disk.empty()
    again = drive(nodes.address, at=home, space=SPACE, ledger=str(store.units))
    assert again.wait() == 0, again.output
    assert_whole(home, 6, units=store.units)


@pytest.mark.parametrize("name", ["studies.db", "mlflow.db"])
def test_a_locked_database(
    name: str,
    nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
) -> None:
    """Another process holds it for seconds: the driver waits, or the tracker sends the events later."""
    driver = drive(nodes.address, space=SPACE)
    driver.wait_for("started")
    time.sleep(moments.uniform(0, 3))
    assert driver.running, driver.output
    with contextlib.closing(sqlite3.connect(store.root / name, timeout=30, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        slow.unlink()
        time.sleep(moments.uniform(1, 8))
        lock.execute("ROLLBACK")
    assert driver.wait() == 0, driver.output
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
    store: Store,
    moments: random.Random,
    assert_whole: Callable[..., Any],
    finished_files: Callable[[Path], dict[Path, bytes]],
) -> None:
    """A new study reads the undamaged units, and trains the others again."""
    first = drive(nodes.address, space=SPACE)
    assert first.wait() == 0, first.output
    before = assert_whole(store, 6)
    finished = finished_files(store.units)
    for harm in (flip, flip, cut, cut):
        path = moments.choice(sorted(finished))
        harm(path, moments)
        finished = {file: content for file, content in finished.items() if file.parent != path.parent}
    for name in ("studies.db", "mlflow.db"):
        (store.root / name).unlink()
    shutil.rmtree(store.root / "outbox")
    again = drive(nodes.address, space=SPACE)
    assert again.wait() == 0, again.output
    after = assert_whole(store, 6, finished=finished)
    assert [record.params for record in after] == [record.params for record in before]
    for one, other in zip(before, after, strict=True):
        if one.state == other.state == "complete":
            assert (one.value, one.facts["units"]) == (other.value, other.facts["units"])


@pytest.mark.parametrize("harm", [flip, cut])
def test_damaged_checkpoints(
    harm: Callable[[Path, random.Random], None],
    nodes: Any,
    drive: Any,
    store: Store,
    slow: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
    until: Callable[..., Any],
) -> None:
    """They are not used: those folds start again."""
    driver = drive(nodes.address, space=SPACE, checkpoint_every=1)
    driver.wait_for("started")
    until(lambda: len(list((store.units).glob("*/at-*"))) > 2)
    driver.kill()
    driver.wait()
    until(lambda: not nodes.workers())
    for path in (store.units).glob("*/at-*"):
        harm(path, moments)
    slow.unlink()
    again = drive(nodes.address, space=SPACE, checkpoint_every=1)
    assert again.wait() == 0, again.output
    assert_whole(store, 6)


def test_a_damaged_shard_of_the_cache(
    nodes: Any,
    drive: Any,
    store: Store,
    cache: Path,
    moments: random.Random,
    assert_whole: Callable[..., Any],
) -> None:
    """It is refused before anything is written."""
    options = {"space": SPACE, "cache": str(cache)}
    shard = next(cache.glob("pairs-*.parquet"))
    content = shard.read_bytes()
    for harm in (flip, cut):
        harm(shard, moments)
        driver = drive(nodes.address, **options)
        assert driver.wait() == 2, driver.output
        assert shard.name in driver.output
        assert "damaged" in driver.output
        assert not store.studies.exists()
        shard.write_bytes(content)
    last = drive(nodes.address, **options)
    assert last.wait() == 0, last.output
    assert_whole(store, 6, experiment="phantom")
