"""What people delete: runs and experiments in MLflow, and the database of the studies."""

from pathlib import Path
from typing import Any

import pytest

from cgn_platform.search.study import open_study
from cgn_platform.space import Float, Space
from cgn_platform.store.layout import Store
from cgn_platform.tracking.delivery import track
from cgn_platform.tracking.mlflow_client import connect, default_uri
from cgn_platform.tracking.writer import DeletedExperimentError


def run_sweep(store: Store, sweep: Any, problems: list[str] | None = None) -> str:
    """A sweep with one complete trial, delivered. Returns the id of its study."""
    space = Space(base=sweep.CONFIG, dimensions={"alpha": Float(0, 1)}, trials=1)
    with open_study("smoke", space, store=store, identity={}) as study:
        log = sweep.begin(store, problems=problems, id=study.id)
        study.ask()
        sweep.play(log, 0, 0.5, 0.6)
        for epoch, value in enumerate((0.5, 0.6)):
            study.report(0, epoch, value)
        ended = study.tell(0, "complete", 0.6, steps=sweep.steps(0.5, 0.6), **sweep.FACTS)
        log.ended(ended)
        log.end("FINISHED", study.trials())
        return study.id


def delete(store: Store, *names: str) -> None:
    _, client = connect(default_uri(store))
    for name, run_id in run_ids(store).items():
        if name in names:
            client.delete_run(run_id)


def run_ids(store: Store) -> dict[str, str]:
    _, client = connect(default_uri(store))
    runs = client.search_runs(["1"])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run.info.run_id for run in runs}


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("names", [("smoke",), ("trial 0",), ("smoke", "trial 0")])
def test_a_deleted_run_is_restored_and_nothing_is_doubled(
    names: tuple[str, ...], rebuild: bool, tracked: Store, runs: Any, sweep: Any
) -> None:
    run_sweep(tracked, sweep)
    before, ids = runs(), run_ids(tracked)
    delete(tracked, *names)
    lines: list[str] = []
    assert track(tracked, default_uri(tracked), rebuild=rebuild, warn=lines.append) == ["smoke"]
    assert lines == [f"restored in MLflow, where somebody had deleted them: {name}" for name in names]
    assert runs() == before
    assert run_ids(tracked) == ids


def test_a_run_that_is_deleted_during_the_sweep_gets_every_point_once(
    tracked: Store, runs: Any, sweep: Any, until: Any
) -> None:
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems)
    sweep.play(log, 0, 0.5, 0.6)
    until(lambda: log.pending == 0)
    delete(tracked, "smoke", "trial 0")
    log.epoch(0, sweep.update(2, 0.7))
    done = sweep.record(0, "complete", 0.7, steps=sweep.steps(0.5, 0.6, 0.7), **sweep.FACTS)
    log.ended(done)
    until(lambda: log.pending == 0)
    log.end("FINISHED", [done])
    assert runs()["trial 0"]["history"]["val_auc"] == [(0, 0.5), (1, 0.6), (2, 0.7)]
    assert {run["status"] for run in runs().values()} == {"FINISHED"}
    assert "must be in the 'active' state" in problems[0]
    assert not [line for line in problems if "rejects" in line]


def test_a_deleted_experiment_is_one_line_with_the_command_that_restores_it(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    run_sweep(tracked, sweep)
    before = runs()
    _, client = connect(default_uri(tracked))
    client.delete_experiment("1")
    for rebuild in (False, True):
        with pytest.raises(
            DeletedExperimentError,
            match=r"somebody deleted the experiment 'phantom' in MLflow: 'MLFLOW_TRACKING_URI=sqlite:.* "
            r"mlflow experiments restore --experiment-id 1' brings it back with its runs; then run ",
        ):
            track(tracked, default_uri(tracked), rebuild=rebuild)
    problems: list[str] = []
    sweep.begin(tracked, problems=problems, id="other").end("FINISHED", [])
    assert "somebody deleted the experiment 'phantom'" in problems[0]
    assert "the sweep goes on" in problems[0]
    client.restore_experiment("1")
    assert track(tracked, default_uri(tracked), warn=lambda _line: None)
    assert {name: run for name, run in runs().items() if name != "other"} == before


@pytest.mark.parametrize("rebuild", [False, True])
def test_runs_of_a_study_whose_database_is_gone_stay_as_they_are(
    rebuild: bool, tracked: Store, runs: Any, sweep: Any
) -> None:
    run_sweep(tracked, sweep)
    before = runs()
    remove_studies(tracked)
    lines: list[str] = []
    assert track(tracked, default_uri(tracked), rebuild=rebuild, warn=lines.append) == []
    (line,) = lines
    assert line.startswith("the study smoke is not in sqlite:")
    assert "its runs in MLflow stay as they are" in line
    assert runs() == before
    assert not tracked.studies.exists()  # reading creates nothing


def test_a_study_that_is_begun_anew_takes_the_place_of_its_runs(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    run_sweep(tracked, sweep)
    first = run_ids(tracked)
    remove_studies(tracked)
    problems: list[str] = []
    run_sweep(tracked, sweep, problems)
    assert problems == [
        "a study smoke that the database has lost is begun anew: its 2 runs in MLflow were deleted, this "
        "study takes their place"
    ]
    second = run_ids(tracked)
    assert sorted(second) == ["smoke", "trial 0"]
    assert not set(second.values()) & set(first.values())
    before = runs()
    lines: list[str] = []
    assert track(tracked, default_uri(tracked), rebuild=True, warn=lines.append) == ["smoke"]
    assert lines == []
    assert runs() == before


def remove_studies(store: Store) -> None:
    for path in Path(store).glob("studies.db*"):
        path.unlink()
