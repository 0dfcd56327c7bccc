"""What a driver has to tell a server that may be away: append-only files in the store, read back in order.

A line is `crc32 number json`. A line that is cut short or damaged is no event. Numbers count every event,
also one that could not be written (a full disk), so a hole in them tells of the loss: `gap` stays true
until somebody who knows the whole story says `mended`. What is missing at the end leaves no hole; whoever
reads must therefore ask the study about everything that has no end in here. For the same reason nothing is
forced to the disk: a power cut takes the last lines, no more.

One process writes an outbox at a time (the lock of its study); within it, one thread appends and one reads.
"""

import errno
import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from cgn import files

Event = Mapping[str, Any]


CHUNK = 2_000  # events read at once


SEGMENT = 10_000  # events a file: what is acknowledged is given back to the disk in such pieces


STATE = "state.json"


class Outbox:
    """The events of one study that the server does not have yet, with `notes`, a small JSON beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()  # of the state
        state = _read_json(folder / STATE)
        self.notes: dict[str, Any] = state.get("notes", {})
        self.gap: bool = state.get("gap", False)
        self.acknowledged: int = state.get("acknowledged", 0)
        self._last: int = max(self.acknowledged, self._last_written())
        self._file: int | None = None
        self._end = self._room = 0  # of the open segment: bytes, events
        self._at = self._next = (0, 0, self.acknowledged)  # segment, byte in it, number of the event before

    @property
    def left(self) -> int:
        """Events that the server does not have; those that could not be written count."""
        return self._last - self.acknowledged

    def append(self, event: Event) -> None:
        """One write.

        Raises:
            OSError: the event is lost, and the gap will be seen.
        """
        self._last += 1
        body = f"{self._last} {json.dumps(event)}".encode()
        line = b"%08x %b\n" % (zlib.crc32(body), body)
        try:
            if self._file is None or self._room == 0:
                self._file = self._begin()
            # At the end of what is whole: the remains of a write that was cut short are written over.
            if os.pwrite(self._file, line, self._end) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self.gap = True
            raise
        self._end += len(line)
        self._room -= 1

    def read(self) -> list[Event]:
        """The next events, at most `CHUNK`; the same ones again until they are acknowledged."""
        events: list[Event] = []
        first, offset, before = self._at
        for segment in self._segments():
            if segment < first:
                continue
            start = offset if segment == first else 0
            for number, event, end in _lines(self._path(segment), start):
                self._next = (segment, end, max(number, before))
                if number <= before:
                    continue  # the server has it
                self.gap |= number != before + 1
                before = number
                events.append(event)
                if len(events) == CHUNK:
                    return events
        return events

    def acknowledge(self) -> None:
        """The server has what was read last.

        Raises:
            OSError: it will be read again by the next process.
        """
        self._at = self._next
        self.acknowledged = self._at[2]
        self._save()
        segments = self._segments()
        for segment, following in pairwise(segments):
            if following <= self.acknowledged + 1:
                self._path(segment).unlink(missing_ok=True)

    def mended(self) -> None:
        """The server was given what a gap had lost. Nobody appends now.

        Raises:
            OSError: it will be mended again.
        """
        if self.gap:
            self.gap = False
            self.acknowledged = self._last
            self._at = self._next = (*self._at[:2], self._last)
            self._save()

    def note(self, **facts: Any) -> None:
        """Remember plain JSON beside the events.

        Raises:
            OSError: it is remembered by this process only.
        """
        self.notes = {**self.notes, **facts}
        self._save()

    def close(self) -> None:
        """Give back the file; what is appended later opens another one."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin(self) -> int:
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        # Nothing whole can be in a file of this name: its first line would be this very event.
        file = os.open(self._path(self._last), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        self._end, self._room = 0, SEGMENT
        return file

    def _save(self) -> None:
        with self._lock:
            state = {"acknowledged": self.acknowledged, "gap": self.gap, "notes": self.notes}
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write(self.folder / STATE, json.dumps(state))

    def _last_written(self) -> int:
        segments = self._segments()
        if not segments:
            return 0
        return max((number for number, _, _ in _lines(self._path(segments[-1]), 0)), default=segments[-1] - 1)

    def _segments(self) -> list[int]:
        """Numbers of the first event of each file, in order."""
        return sorted(int(path.stem) for path in self.folder.glob("*.jsonl"))

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:012}.jsonl"


def _lines(path: Path, start: int) -> Iterator[tuple[int, Event, int]]:
    """Number, event and end of each whole line; an unfinished last one is not there."""
    end = start
    with suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            checksum, _, body = line[:-1].partition(b" ")
            if checksum == b"%08x" % zlib.crc32(body):
                number, _, event = body.partition(b" ")
                yield int(number), json.loads(event), end


def _read_json(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):  # none yet, or cut short by a power failure: all is read again
        return {}
    return state if isinstance(state, dict) else {}
