import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cgn.errors import PlatformError
from cgn_platform.tracking import outbox, segments
from cgn_platform.tracking.outbox import DATABASE, Outbox, checksum, read_notes

ROOT = Path(__file__).parents[3]
OLD = Path(__file__).with_name(
    "outbox_of_0cfa8ab"
)  # bytes that its code wrote: events 1 to 11, 6 acknowledged


def event(number: int) -> dict[str, Any]:
    metrics = {"val_auc": number / 7}
    return {"kind": "epoch", "trial": number, "time": 1_700_000_000_000, "epoch": 0, "metrics": metrics}


def fill(folder: Path, *numbers: int) -> Outbox:
    box = Outbox(folder)
    for number in numbers:
        box.append(event(number))
    return box


def drained(box: Outbox) -> list[Any]:
    events: list[Any] = []
    while some := box.read():
        events += some
        box.acknowledge()
    return events


def after_a_power_cut(folder: Path, copy: Path) -> Path:
    """The files as they are now, while a writer has them open."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm"))
    return copy


@contextlib.contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """The system cuts every write short that goes beyond this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ------------------------------------------------------------------------------------------ events


def test_what_was_appended_is_read_in_order_until_it_is_acknowledged(tmp_path: Path) -> None:
    box = fill(tmp_path / "o", 1, 2, 3)
    assert box.read() == box.read() == [event(1), event(2), event(3)]
    box.append(event(4))
    assert box.pending == 4
    assert len(box.read()) == 4
    box.acknowledge()
    assert (box.read(), box.pending) == ([], 0)


def test_another_process_goes_on_where_this_one_stopped(tmp_path: Path) -> None:
    box = fill(tmp_path, 1, 2)
    box.read()
    box.acknowledge()
    box.append(event(3))
    other = fill(tmp_path, 4)
    assert other.pending == 2
    assert drained(other) == [event(3), event(4)]
    assert not other.gap
    assert drained(Outbox(tmp_path)) == []


def test_events_come_in_chunks_and_acknowledged_ones_leave_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CHUNK", 7)
    box = fill(tmp_path, *range(35))
    assert box.read() == [event(n) for n in range(7)]
    assert drained(box) == [event(n) for n in range(35)]
    box.close()
    size = (tmp_path / DATABASE).stat().st_size
    for _ in range(20):
        with fill(tmp_path, *range(35)) as again:
            assert len(drained(again)) == 35
    assert (tmp_path / DATABASE).stat().st_size == size
    assert [path.name for path in tmp_path.iterdir()] == [DATABASE]


def test_an_event_may_be_appended_while_another_is_read(tmp_path: Path) -> None:
    box = fill(tmp_path, 1)
    box.read()
    box.append(event(2))
    box.acknowledge()
    assert drained(box) == [event(2)]


def test_an_outbox_that_is_only_read_creates_nothing(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "o")
    assert (box.read(), box.pending, box.notes, read_notes(tmp_path / "o")) == ([], 0, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_other_users_cannot_read_it(tmp_path: Path) -> None:
    box = fill(tmp_path, 1)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    box.close()


# ---------------------------------------------------------------------------------------- power cuts


@pytest.mark.parametrize("cut", [1, 5, 40, 4096])
def test_a_torn_last_write_is_no_event_and_the_next_process_writes_on(tmp_path: Path, cut: int) -> None:
    box = fill(tmp_path / "o", 1, 2)
    folder = after_a_power_cut(tmp_path / "o", tmp_path / "copy")
    box.close()
    log = folder / f"{DATABASE}-wal"
    log.write_bytes(log.read_bytes()[:-cut])
    box = fill(folder, 3)
    assert drained(box) == [event(1), event(3)]
    assert not box.gap  # the number was given again; readers reconcile the end with the study anyway


def test_notes_stay_and_a_lost_acknowledgement_means_that_all_is_read_again(tmp_path: Path) -> None:
    box = fill(tmp_path / "o", 1, 2)
    box.note(parent={"study": "s"})
    box.note(closed=None)
    before = after_a_power_cut(tmp_path / "o", tmp_path / "copy")
    drained(box)
    notes = {"parent": {"study": "s"}, "closed": None}
    assert read_notes(tmp_path / "o") == Outbox(tmp_path / "o").notes == notes
    assert Outbox(tmp_path / "o").pending == 0
    again = Outbox(before)
    assert drained(again) == [event(1), event(2)]
    assert (again.notes, again.gap) == (notes, False)


# ----------------------------------------------------------------------------------------- full disks


def test_a_full_disk_loses_an_event_and_leaves_a_gap_until_it_is_cleared(tmp_path: Path, disk: Any) -> None:
    box = fill(tmp_path, 1)
    disk.full = True
    with pytest.raises(OSError, match="No space left on device"):
        box.append(event(2))
    disk.full = False
    box.append(event(3))
    other = Outbox(tmp_path)
    assert drained(other) == [event(1), event(3)]
    for same in (other, Outbox(tmp_path)):  # it is stored
        assert same.gap
    other.clear_gap()
    assert not Outbox(tmp_path).gap


@pytest.mark.parametrize("takes", [0, 20, 4000])
def test_a_write_that_is_cut_short_loses_this_event_only(tmp_path: Path, takes: int) -> None:
    box = fill(tmp_path, 1)
    size = (tmp_path / f"{DATABASE}-wal").stat().st_size
    with files_no_longer_than(size + takes), pytest.raises(OSError, match="disk"):
        box.append(event(2))
    box.append(event(3))
    assert box.pending == 3
    other = Outbox(tmp_path)
    assert drained(other) == [event(1), event(3)]
    assert other.gap


def test_a_disk_that_stays_full_is_a_gap_too(tmp_path: Path, disk: Any) -> None:
    box = fill(tmp_path, 1)
    disk.full = True
    with pytest.raises(OSError, match="No space"):
        box.append(event(2))
    disk.full = False
    assert drained(box) == [event(1)]
    assert (box.pending, box.gap) == (1, True)
    box.clear_gap()
    assert (box.pending, box.gap) == (0, False)
    box.append(event(3))
    assert drained(box) == [event(3)]
    assert not box.gap


def test_a_folder_that_cannot_be_made_is_an_error_of_each_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = Outbox(tmp_path / "file" / "o")
    for write in (lambda: box.append(event(1)), lambda: box.note(parent={})):
        with pytest.raises(NotADirectoryError):
            write()


def test_a_database_that_another_process_has_locked_is_an_error_that_passes(tmp_path: Path) -> None:
    box = fill(tmp_path, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="database is locked"):
            box.append(event(2))
    box.append(event(3))
    assert drained(box) == [event(1), event(3)]
    assert box.gap


# ---------------------------------------------------------------------------------------- killed writers


@pytest.mark.integration
def test_a_writer_that_is_killed_loses_nothing_it_appended(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cgn_platform.tracking.outbox import Outbox\n"
        f"box = Outbox(Path({str(tmp_path)!r}))\n"
        "for n in range(10**6):\n    box.append({'trial': n}); print(n, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "platform")])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        printed = [int(process.stdout.readline()) for _ in range(3000)]
        process.send_signal(signal.SIGKILL)
        printed += [int(line) for line in process.stdout if line.endswith("\n")]
    box = Outbox(tmp_path)
    events = drained(box)
    assert [e["trial"] for e in events] == list(range(len(events)))
    assert len(events) >= len(printed)
    assert (box.acknowledged, box.gap) == (len(events), False)
    assert Outbox(tmp_path).acknowledged == len(events)


# ----------------------------------------------------------------------------------------- damaged files


def damage(path: Path, old: bytes, new: bytes) -> None:
    """Change the first occurrence; in a database that is the last event."""
    path.write_bytes(path.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize("new", [b"epocH", b"epo\xff\x00"])
def test_a_damaged_event_is_left_out_and_seen_as_a_gap(tmp_path: Path, new: bytes) -> None:
    box = Outbox(tmp_path)
    for number, kind in enumerate(("one", "epoch", "three")):
        box.append({"kind": kind, "trial": number})
    box.close()
    damage(tmp_path / DATABASE, b"epoch", new)
    box = Outbox(tmp_path)
    assert [event["kind"] for event in drained(box)] == ["one", "three"]
    assert box.gap
    assert Outbox(tmp_path).gap


@pytest.mark.parametrize("content", ["'gone'", "x'ff'", "7", "1.5"])
def test_an_event_that_became_another_type_is_left_out(tmp_path: Path, content: str) -> None:
    box = fill(tmp_path, 1, 2, 3)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as other:
        other.execute(f"UPDATE events SET event = {content} WHERE number = 2")  # noqa: S608
        other.commit()
    assert drained(box) == [event(1), event(3)]
    assert box.gap


def test_a_damaged_last_event_is_a_gap_too(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2).close()
    damage(tmp_path / DATABASE, b"epoch", b"epocH")
    box = Outbox(tmp_path)
    assert drained(box) == [event(1)]
    assert box.gap


DAMAGES = {
    "no database": lambda content: b"no database" * 100,
    "empty": lambda content: b"",
    "cut": lambda content: content[: 4096 + 100],
    "pages": lambda content: content[:100] + b"\xaa" * (len(content) - 100),
    "events": lambda content: content[:4096] + b"\xaa" * 4096 + content[8192:],
    "a hole": lambda content: content[:4096] + bytes(len(content) - 4096),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_database_is_one_line_and_a_gap_and_the_outbox_goes_on(tmp_path: Path, how: str) -> None:
    box = fill(tmp_path, *range(50))
    box.note(parent={"study": "s"})
    box.close()
    path = tmp_path / DATABASE
    path.write_bytes(DAMAGES[how](path.read_bytes()))
    lines: list[str] = []
    assert read_notes(tmp_path) in ({}, {"parent": {"study": "s"}})
    box = Outbox(tmp_path, lines.append)
    assert len(drained(box)) < 50
    box.append(event(1))
    box.note(closed=None)
    assert drained(box) == [event(1)]
    assert box.gap
    if how == "empty":  # as if it had never been filled
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"{path} is damaged (")
        assert "was renamed to damaged-outbox.db, and MLflow is filled from the study" in line
    box.close()
    box = Outbox(tmp_path, lines.append)
    assert (box.gap, box.pending, len(lines)) == (True, 0, how != "empty")
    box.clear_gap()
    assert not Outbox(tmp_path).gap


def test_notes_are_kept_if_only_the_events_are_damaged(tmp_path: Path) -> None:
    box = fill(tmp_path, *range(50))
    box.note(parent={"study": "s"})
    box.close()
    path = tmp_path / DATABASE
    path.write_bytes(DAMAGES["events"](path.read_bytes()))
    box = Outbox(tmp_path)
    box.read()
    assert Outbox(tmp_path).notes == {"parent": {"study": "s"}}


def test_a_database_that_is_damaged_while_it_is_open_goes_on_as_a_new_one(tmp_path: Path) -> None:
    lines: list[str] = []
    box = Outbox(tmp_path, lines.append)
    box.note(parent={"study": "s"})
    box.append(event(1))
    box.close()
    (tmp_path / DATABASE).write_bytes(b"no database" * 1000)
    box.append(event(2))
    assert (drained(box), box.gap, box.notes) == ([event(2)], True, {"parent": {"study": "s"}})
    assert len(lines) == 1
    assert Outbox(tmp_path).notes == {"parent": {"study": "s"}}


# ---------------------------------------------------------------------------------------- other formats


def test_an_outbox_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, 1).close()
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        database.execute(f"PRAGMA user_version = {outbox.FORMAT + 1}")
    with pytest.raises(PlatformError, match=r"has format 3 but .* reads up to 2: use the version"):
        Outbox(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [DATABASE]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_an_outbox_of_an_older_version_is_imported_and_its_files_removed(old: Path) -> None:
    notes = read_notes(old)
    assert notes["parent"]["study"] == "smoke"
    assert sorted(path.name for path in old.iterdir()) == sorted(path.name for path in OLD.iterdir())
    box = Outbox(old)
    assert [path.name for path in old.glob("*") if "outbox.db" not in path.name] == []
    assert (box.pending, box.acknowledged, box.gap, box.notes) == (5, 6, False, notes)
    box.append(event(12))
    assert drained(box) == [event(number) for number in range(7, 13)]
    assert (box.gap, read_notes(old)) == (False, notes)


def test_its_damaged_lines_and_a_torn_last_one_are_left_out(old: Path) -> None:
    first, second = sorted(old.glob("*.jsonl"))
    damage(first, b'"trial": 8', b'"trial": 9')
    second.write_bytes(second.read_bytes()[:-1])
    box = Outbox(old)
    assert drained(box) == [event(number) for number in (7, 9, 10)]
    assert box.gap


@pytest.mark.parametrize("lost", ["acknowledged", "gap"])
def test_its_state_may_be_damaged_or_say_that_there_is_a_gap(old: Path, lost: str) -> None:
    state = old / segments.STATE
    content = state.read_text()
    state.write_text(content[:20] if lost == "acknowledged" else content.replace("false", "true"))
    box = Outbox(old)
    assert box.gap is (lost == "gap")
    first = 5 if lost == "acknowledged" else 7  # all events that there are
    assert drained(box) == [event(number) for number in range(first, 12)]


def test_an_import_that_is_killed_before_it_is_committed_is_done_again(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(segments.read_events(old))

    def killed(_folder: Path) -> Iterator[Any]:
        yield from rows[:5]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(segments, "read_events", killed)
        with pytest.raises(KeyboardInterrupt):
            Outbox(old)
    assert drained(Outbox(old)) == [event(number) for number in range(7, 12)]
    assert list(old.glob("*.jsonl")) == []


def test_an_import_that_is_killed_before_the_old_files_are_removed_is_not_done_twice(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(segments, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            Outbox(old)
    assert len(list(old.glob("*.jsonl"))) == 2
    box = Outbox(old)
    assert drained(box) == [event(number) for number in range(7, 12)]
    assert (box.gap, list(old.glob("*.jsonl"))) == (False, [])


def test_checksums_are_those_of_the_old_lines() -> None:
    for number, check, content in segments.read_events(OLD):
        assert check == checksum(number, content)
