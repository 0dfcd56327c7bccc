"""What escapes a command is one line with a remedy; its traceback is in a file."""

import errno
import io
import re
import sqlite3
import stat
import sys
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from cgn.errors import StudyError
from cgn_platform import cli
from cgn_platform.cli import boundary
from cgn_platform.search.study import read_study
from cgn_platform.store.layout import Store

ESCAPES = {
    "locked": (sqlite3.OperationalError("database is locked"), "end the process that holds it"),
    "damaged": (sqlite3.DatabaseError("file is not a database"), "restore it"),
    "sqlalchemy": (OperationalError("SELECT 1", {}, Exception("database is locked")), "holds it"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "/s/report.html"), "--store"),
    "forbidden": (PermissionError(errno.EACCES, "Permission denied", "/s"), "you may write to"),
    "full": (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
    "ascii": (UnicodeEncodeError("ascii", "±", 0, 1, "ordinal not in range"), "PYTHONIOENCODING"),
    "no home": (RuntimeError("Could not determine home directory."), "set HOME"),
    "no account": (KeyError("getpwuid(): uid not found: 12345"), "set HOME and USER"),
    "statistics": (ValueError("labels must hold both classes\nbut do not"), "report it"),
    "empty": (AssertionError(), "report it"),
}


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("debug", [False, True])
def test_every_escape_is_a_line_with_a_remedy(
    name: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    error, remedy = ESCAPES[name]

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("cgn_platform.cli.results.open_store", fail)
    monkeypatch.setattr("sys.argv", ["cgn", *(["--debug"] if debug else []), "units"])
    if debug:
        with pytest.raises(type(error)):
            cli.main()
        return
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert remedy in line
    (path,) = re.findall(r"traceback in (\S+)\)", line)
    assert Path(path).parent == tmp_path
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert "Traceback" in Path(path).read_text()


def test_without_a_temporary_folder_the_line_is_printed_nevertheless(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert "--debug shows the traceback" in boundary.line_of(ValueError("x"))


def test_a_password_is_not_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert "secret" not in boundary.line_of(ValueError("postgresql+psycopg://me:secret@host/db is gone"))


def test_an_ascii_terminal_shows_replacements() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    boundary.printable(stream)
    print("× / ✓ 0.5 ± 0.1 ü", file=stream, flush=True)
    assert raw.getvalue() == b"x / v 0.5 ~ 0.1 ?\n"


@pytest.mark.parametrize(("verb", "state"), [("table", "finished folds are kept"), ("units", "starts again")])
def test_ctrl_c_says_what_is_kept_and_how_to_resume(
    verb: str, state: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    module = {"table": "run", "units": "results"}[verb]
    monkeypatch.setattr(f"cgn_platform.cli.{module}.open_store", interrupt)
    arguments = ["table", "t.py", "--data", "a folder"] if verb == "table" else ["units"]
    monkeypatch.setattr(sys, "argv", ["cgn", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    message = capsys.readouterr().err
    assert state in message
    assert ("cgn table t.py --data 'a folder'" if verb == "table" else "cgn units") in message


@pytest.mark.parametrize("damage", [b"", b"garbage " * 2000])
def test_a_damaged_study_database_is_one_typed_error(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "studies.db").write_bytes(damage)
    message = rf"{tmp_path / 'studies.db'} cannot be used .*: restore it" if damage else "no study 's'"
    with pytest.raises(StudyError, match=message):
        read_study("s", Store(tmp_path))
