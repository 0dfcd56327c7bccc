import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cgn_platform.tracking import outbox
from cgn_platform.tracking.outbox import Outbox

PLATFORM = Path(outbox.__file__).parents[1]


def event(number: int) -> dict[str, Any]:
    return {"kind": "epoch", "trial": number, "metrics": {"val_auc": number / 7}}


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


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A disk that takes no more, or only the first bytes of what is written, while it is switched on."""
    write = os.pwrite
    state = {"on": False, "takes": 0}

    def pwrite(file: int, content: bytes, at: int) -> int:
        if not state["on"]:
            return write(file, content, at)
        if not state["takes"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content[: state["takes"]], at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return state


def test_what_was_appended_is_read_in_order_until_it_is_acknowledged(tmp_path: Path) -> None:
    box = fill(tmp_path / "o", 1, 2, 3)
    assert box.read() == box.read() == [event(1), event(2), event(3)]
    box.append(event(4))
    assert box.left == 4
    assert len(box.read()) == 4
    box.acknowledge()
    assert (box.read(), box.left) == ([], 0)


def test_another_process_goes_on_where_this_one_stopped(tmp_path: Path) -> None:
    box = fill(tmp_path, 1, 2)
    box.read()
    box.acknowledge()
    box.append(event(3))
    other = fill(tmp_path, 4)
    assert other.left == 2
    assert drained(other) == [event(3), event(4)]
    assert not other.gap
    assert drained(Outbox(tmp_path)) == []


def test_events_come_in_chunks_and_acknowledged_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SEGMENT", 10)
    monkeypatch.setattr(outbox, "CHUNK", 7)
    box = fill(tmp_path, *range(35))
    assert len(list(tmp_path.glob("*.jsonl"))) == 4
    assert box.read() == [event(n) for n in range(7)]
    assert drained(box) == [event(n) for n in range(35)]
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["000000000031.jsonl"]


def test_an_event_may_be_appended_while_another_is_read(tmp_path: Path) -> None:
    box = fill(tmp_path, 1)
    box.read()
    box.append(event(2))
    box.acknowledge()
    assert drained(box) == [event(2)]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_no_event_and_the_next_process_writes_on(tmp_path: Path, cut: int) -> None:
    fill(tmp_path, 1, 2).close()
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-cut])
    box = fill(tmp_path, 3)
    assert drained(box) == [event(1), event(3)]
    assert not box.gap  # the number was given again: whoever reads asks the study about the end anyway


def test_a_damaged_line_is_left_out_and_seen_as_a_gap(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, 3)
    path = next(tmp_path.glob("*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"epoch", b"epocH") + lines[2])
    box = Outbox(tmp_path)
    assert drained(box) == [event(1), event(3)]
    assert box.gap


@pytest.mark.parametrize("takes", [0, 20])
def test_a_full_disk_loses_an_event_and_leaves_a_gap_until_it_is_mended(
    tmp_path: Path, full: Any, takes: int
) -> None:
    box = fill(tmp_path, 1)
    full.update(on=True, takes=takes)
    with pytest.raises(OSError, match="No space left on device"):
        box.append(event(2))
    full.update(on=False)
    box.append(event(3))
    other = Outbox(tmp_path)
    assert drained(other) == [event(1), event(3)]
    for same in (other, Outbox(tmp_path)):  # it is remembered
        assert same.gap
    other.mended()
    assert not Outbox(tmp_path).gap


def test_a_disk_that_stays_full_is_a_gap_too(tmp_path: Path, full: Any) -> None:
    box = fill(tmp_path, 1)
    full.update(on=True)
    with pytest.raises(OSError, match="No space"):
        box.append(event(2))
    assert drained(box) == [event(1)]
    assert (box.left, box.gap) == (1, True)
    box.mended()
    full.update(on=False)
    assert (box.left, box.gap) == (0, False)
    box.append(event(3))
    assert drained(box) == [event(3)]
    assert not box.gap


def test_a_folder_that_cannot_be_made_is_told_when_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    box = Outbox(tmp_path / "file" / "o")
    for write in (lambda: box.append(event(1)), lambda: box.note(parent={})):
        with pytest.raises(NotADirectoryError):
            write()


def test_notes_stay_and_a_state_cut_short_means_that_all_is_read_again(tmp_path: Path) -> None:
    box = fill(tmp_path, 1, 2)
    box.note(parent={"study": "s"})
    box.note(closed=None)
    drained(box)
    assert Outbox(tmp_path).notes == {"parent": {"study": "s"}, "closed": None}
    state = tmp_path / "state.json"
    state.write_text(state.read_text()[:20])
    assert drained(Outbox(tmp_path)) == [event(1), event(2)]


@pytest.mark.integration
def test_a_writer_that_is_killed_loses_nothing_it_appended(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cgn_platform.outbox import Outbox\n"
        f"box = Outbox(Path({str(tmp_path)!r}))\n"
        "for n in range(10**6):\n    box.append({'trial': n}); print(n, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PLATFORM.parent), str(PLATFORM)])}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(3000)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout if line.endswith("\n")]
    events = drained(Outbox(tmp_path))
    assert [e["trial"] for e in events] == list(range(len(events)))
    assert len(events) >= len(told)
    assert json.loads((tmp_path / "state.json").read_text())["acknowledged"] == len(events)
