"""Studies in Postgres behave as in SQLite, and drivers of several stores exclude each other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from cgn.config import Config
from cgn.errors import StudyError
from cgn_platform.cluster.processes import free_ports
from cgn_platform.search.records import StudyInfo, TrialSpec
from cgn_platform.search.study import Study, open_study
from cgn_platform.search.study_lock import StudyLock, check_database
from cgn_platform.space import Space
from cgn_platform.store.layout import Store
from cgn_platform.tracking.mlflow_client import connect
from cgn_platform.tracking.tracker import Tracker

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).parents[1] / "driver.py"


def opened(space: Space, store: Path | Store, url: str) -> Study:
    return open_study("s", space, store=Store(Path(store)), identity={}, url=url)


def ask(study: Study) -> TrialSpec:
    trial = study.ask()
    assert trial is not None
    return trial


def end_sessions(url: str) -> None:
    """End all other sessions, as a restart of Postgres does."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_study_is_resumed_from_another_store(space: Space, tmp_path: Path, database: str) -> None:
    with opened(space, tmp_path / "a", database) as study:
        first = ask(study)
        study.report(first.number, 0, 0.5)
        study.tell(first.number, "complete", 0.75, folds=[{"fold": 0}])
        lost = ask(study)
    with opened(space, tmp_path / "b", database) as study:
        assert study.orphans == 1
        complete, orphan, queued = study.trials()
        assert (complete.value, dict(complete.curve)) == (0.75, {0: 0.5})
        assert (orphan.state, queued.state) == ("orphan", "waiting")
        assert ask(study).params == lost.params
    assert not (tmp_path / "a" / "studies.db").exists()


def test_drivers_of_two_stores_exclude_each_other(space: Space, tmp_path: Path, database: str) -> None:
    with opened(space, tmp_path / "a", database):  # noqa: SIM117
        with pytest.raises(StudyError, match=rf"held by process {os.getpid()} on .* since 20\d\d-.*: wait"):
            opened(space, tmp_path / "b", database)
    opened(space, tmp_path / "b", database).close()


def test_a_released_lock_is_free_at_once(tmp_path: Path, database: str) -> None:
    """Postgres notices the end of a session some time after the client."""
    for _ in range(100):
        for store in ("a", "b"):
            StudyLock("s", Store(tmp_path / store), database).release()


def test_studies_of_different_names_have_different_locks(tmp_path: Path, database: str) -> None:
    store = Store(tmp_path)
    one, two = StudyLock("one", store, database), StudyLock("two", store, database)
    one.release()
    two.release()


def test_after_a_restart_of_postgres_the_driver_continues_and_locks_again(
    space: Space, tmp_path: Path, database: str
) -> None:
    with opened(space, tmp_path / "a", database) as study:
        first = ask(study)
        end_sessions(database)
        study.tell(first.number, "complete", 0.5)
        ask(study)
        with pytest.raises(StudyError, match="held by process"):
            opened(space, tmp_path / "b", database)


def test_a_driver_that_lost_its_lock_to_another_one_stops(
    space: Space, tmp_path: Path, database: str
) -> None:
    with opened(space, tmp_path / "a", database) as study:
        end_sessions(database)
        with (
            opened(space, tmp_path / "b", database),
            pytest.raises(StudyError, match="held by process"),
        ):
            study.ask()


def test_a_database_that_does_not_answer_is_an_error_without_its_password(space: Space, store: Store) -> None:
    url = f"postgresql+psycopg://me:secret@127.0.0.1:{free_ports(1)[0]}/cgn"
    with pytest.raises(StudyError, match=r"me:\*\*\*@127.0.0.1.*does not answer.*CGN_STUDY_URL") as error:
        opened(space, store, url)
    assert "secret" not in str(error.value)


def test_whether_a_database_answers(store: Store, database: str) -> None:
    check_database(database)
    check_database(f"sqlite:///{store.root / 'none.db'}")
    (store.root / "broken.db").write_text("no database " * 1000)
    with pytest.raises(StudyError, match=r"broken.db is not a readable SQLite database .*: restore it"):
        check_database(f"sqlite:///{store.root / 'broken.db'}")


def test_a_killed_driver_is_resumed_by_the_same_command(
    store: Store, database: str, tracking_database: str
) -> None:
    driver = [sys.executable, str(DRIVER), str(store)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_"))}
    options: dict[str, Any] = {
        "env": {
            **clean,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}",
            "TMPDIR": str(store),
            "CGN_STUDY_URL": database,
            "MLFLOW_TRACKING_URI": tracking_database,
        },
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    with subprocess.Popen(driver, **options) as first:
        assert first.stdout is not None
        assert any("complete" in line for line in iter(first.stdout.readline, ""))
        children = psutil.Process(first.pid).children(recursive=True)
        first.send_signal(signal.SIGKILL)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    second = subprocess.run(driver, **options, check=False, timeout=120)
    assert second.returncode == 0, second.stdout
    states = Counter(record["state"] for record in json.loads(second.stdout.splitlines()[-1]))
    assert states["complete"] + states["pruned"] + states["failed"] == 10
    assert 1 <= states["orphan"] <= 4
    assert "MLflow cannot" not in second.stdout
    assert not list(store.root.glob("*.db"))


def test_mlflow_writes_to_postgres(tracking_database: str, store: Store) -> None:
    problems: list[str] = []
    tracker = Tracker(store, tracking_database, on_problem=problems.append)
    tracker.begin(StudyInfo("smoke", "1", 1, dataset="squares"))
    tracker.started(TrialSpec(0, Config(), {}))
    tracker.end("FINISHED", [])
    assert problems == []
    _, client = connect(tracking_database)
    runs = client.search_runs(["1"])
    assert {run.info.run_name: run.info.status for run in runs} == {"smoke": "FINISHED", "trial 0": "KILLED"}
