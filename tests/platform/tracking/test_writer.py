import json
from dataclasses import replace
from typing import Any

import pytest

from cgn_platform.search.records import ORPHAN, EpochUpdate, TrialSpec
from cgn_platform.store.layout import Store
from cgn_platform.tracking import events
from cgn_platform.tracking.links import WORKFLOW
from cgn_platform.tracking.mlflow_client import connect, default_uri


def client_of(store: Store) -> Any:
    return connect(default_uri(store))[1]


def test_a_sweep_is_a_parent_and_each_trial_a_child(tracked: Store, runs: Any, sweep: Any) -> None:
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems)
    sweep.play(log, 0, 0.5, 0.6)
    sweep.play(log, 1, 0.5)
    sweep.play(log, 2, 0.5)
    ended = [
        sweep.record(0, "complete", 0.7, **sweep.FACTS),
        sweep.record(1, "pruned", reason="median pruner", retry_of=0),
        sweep.record(2, "failed", reason="DivergedError: nan"),
        replace(sweep.record(3, "failed", reason="f_a and f_b cannot both be"), config=None, curve={}),
    ]
    for record in ended:
        log.ended(record)
    log.end("FINISHED", ended)
    assert problems == []
    shown = runs()
    assert {name: run["status"] for name, run in shown.items()} == {
        "smoke": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "FINISHED",
        "trial 2": "FAILED",
        "trial 3": "FAILED",
    }
    best = shown["trial 0"]
    assert best["params"]["alpha"] == "0.5"
    assert best["params"]["bilateral"] == "adain_gan"
    assert best["tags"]["fingerprint"] == sweep.CONFIG.fingerprint()
    assert best["tags"]["cache"] == "c0ffee"
    assert best["tags"]["cgn.trial"] == "smoke/0"
    assert best["history"]["val_auc"] == [(0, 0.5), (1, 0.6)]
    assert best["metrics"]["fold_1/val_auc"] == pytest.approx(0.7)
    assert best["metrics"]["fold_1/test_auc"] == pytest.approx(0.7)
    assert best["metrics"]["fold_1/localization_error"] == 0.5
    assert "fold_0/localization_error" not in best["metrics"]  # it was no number
    assert best["metrics"]["l_cls"] == 0.3
    assert shown["trial 1"]["tags"]["cgn.state"] == "pruned"
    assert shown["trial 1"]["tags"]["cgn.reason"] == "median pruner"
    assert shown["trial 1"]["tags"]["cgn.retry_of"] == "0"
    assert shown["smoke"]["metrics"]["best_val_auc"] == 0.7
    client = client_of(tracked)
    found = client.search_runs([client.get_experiment_by_name("phantom").experiment_id])
    parent = next(run.info.run_id for run in found if run.info.run_name == "smoke")
    assert {run.data.tags.get("mlflow.parentRunId", parent) for run in found} == {parent}


def test_events_that_come_again_change_nothing(tracked: Store, runs: Any, sweep: Any) -> None:
    done = sweep.record(0, "complete", 0.7, **sweep.FACTS)
    log = sweep.begin(tracked, uri=sweep.NOWHERE)
    sweep.play(log, 0, 0.5, 0.6)
    log.ended(done)
    log.end("FINISHED", [done])
    sweep.forget_acknowledgements(tracked, lambda: sweep.begin(tracked).end("FINISHED", [done]))
    before = runs()
    again = sweep.begin(tracked)
    again.end("FINISHED", [done])
    assert again.pending == 0
    assert runs() == before
    assert before["trial 0"]["history"]["val_auc"] == [(0, 0.5), (1, 0.6)]


def test_numbers_that_are_not_finite_are_points_too(tracked: Store, runs: Any, sweep: Any) -> None:
    log = sweep.begin(tracked)
    log.started(TrialSpec(0, sweep.CONFIG, {}))
    log.epoch(0, EpochUpdate(0, 0.5, {}, {"nan": float("nan"), "inf": float("inf")}))
    log.end("KILLED", [])
    metrics = runs()["trial 0"]["metrics"]
    assert metrics["nan"] != metrics["nan"]
    assert metrics["inf"] > 1e300


def test_what_the_server_will_never_accept_is_reported_and_left_out(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems)
    log.started(TrialSpec(0, sweep.CONFIG, {}))
    log.epoch(0, sweep.update(0, 0.5))
    log.epoch(0, EpochUpdate(1, 0.6, {}, {"no such name?": 1.0}))
    log.epoch(0, sweep.update(2, 0.7))
    log.end("KILLED", [])
    (problem,) = problems
    assert problem.startswith("MLflow rejects a value, which is left out (")
    assert "no such name?" in problem
    assert runs()["trial 0"]["history"]["val_auc"] == [(0, 0.5), (2, 0.7)]


def test_a_run_that_was_created_twice_is_one_again(tracked: Store, runs: Any, sweep: Any) -> None:
    """A server that is killed after it created a run, and before it answered, is asked for it again."""
    log = sweep.begin(tracked)
    sweep.play(log, 0, 0.5)
    log.end("KILLED", [sweep.record(0, "running")])
    before, parent = runs(), sweep.run_ids(default_uri(tracked))["smoke"]
    client = client_of(tracked)
    child = {"mlflow.parentRunId": parent}
    client.create_run("1", 1, {"cgn.trial": "smoke/0", **child}, "trial 0")
    client.create_run("1", 1, {"cgn.study_id": "5eed"}, "smoke")
    client.create_run("1", 1, child, "somebody's own")
    assert sweep.make_writer(default_uri(tracked), tracked).open(running=False)
    assert {name: run for name, run in runs().items() if name != "somebody's own"} == before


def test_no_run_is_left_running_though_the_study_does_not_know_it(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    log = sweep.begin(tracked)
    sweep.play(log, 0, 0.5)
    log.end("KILLED", [])
    assert runs()["trial 0"]["status"] == "KILLED"
    assert runs()["trial 0"]["tags"]["cgn.reason"] == "the study does not know it"


def test_a_resume_finds_its_runs_and_ends_those_of_the_dead_driver(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    dead = sweep.make_writer(default_uri(tracked), tracked)
    dead.open(running=True)
    for number in range(3):
        dead.apply(
            [
                events.started(number, sweep.CONFIG, {}, 1),
                events.epoch(number, {"epoch": 0, "val_auc": 0.5}, 1),
            ]
        )
    # The study knows more: trial 0 ended, 1 and 2 are orphans, and MLflow has never heard of 3.
    known = [
        sweep.record(0, "complete", 0.6, **sweep.FACTS),
        sweep.record(1, "orphan", reason=ORPHAN),
        sweep.record(2, "orphan", reason=ORPHAN),
        sweep.record(3, "pruned", reason="median pruner"),
        sweep.record(4, "waiting"),
    ]
    for _ in range(2):
        log = sweep.begin(tracked, records=known)
        log.end("FINISHED", known)
        shown = runs()
        assert {name: run["status"] for name, run in shown.items()} == {
            "smoke": "FINISHED",
            "trial 0": "FINISHED",
            "trial 1": "KILLED",
            "trial 2": "KILLED",
            "trial 3": "FINISHED",
        }
        for name, run in shown.items():
            if name != "smoke":
                assert run["history"]["val_auc"] == [(0, 0.5), (1, 0.6)]
    assert shown["trial 0"]["metrics"]["test_auc"] == 0.65
    assert shown["trial 1"]["tags"]["cgn.reason"] == ORPHAN


def test_a_trial_left_running_ends_with_the_sweep_as_the_next_driver_will_record_it(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    log = sweep.begin(tracked)
    sweep.play(log, 0, 0.5, 0.6)
    log.end("KILLED", [sweep.record(0, "running", steps=sweep.steps(0.5, 0.6), retry_of=7)])
    shown = runs()
    assert {run["status"] for run in shown.values()} == {"KILLED"}
    assert shown["trial 0"]["tags"]["cgn.retry_of"] == "7"
    known = [sweep.record(0, "orphan", reason=ORPHAN, retry_of=7)]
    sweep.begin(tracked, records=known).end("KILLED", [])
    assert runs()["trial 0"] == shown["trial 0"]


def test_a_run_whose_end_was_cut_short_is_ended_by_the_next_driver(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    """Its state is written first, then its status."""
    done = sweep.record(0, "complete", 0.6)
    log = sweep.begin(tracked)
    sweep.play(log, 0, 0.5, 0.6)
    log.ended(done)
    log.end("KILLED", [done])
    run = sweep.run_ids(default_uri(tracked))["trial 0"]
    client_of(tracked).update_run(run, status="RUNNING")
    sweep.begin(tracked, [done]).end("FINISHED", [done])
    assert runs()["trial 0"]["status"] == "FINISHED"


@pytest.mark.integration
def test_mlflow_on_postgres(tracking_database: str, tracked: Store, runs: Any, sweep: Any) -> None:
    done = sweep.record(0, "complete", 0.6, **sweep.FACTS)
    for uri in (tracking_database, default_uri(tracked)):
        store = Store(tracked.root / uri[:6])
        log = sweep.begin(store, uri=sweep.NOWHERE)
        sweep.play(log, 0, 0.5, 0.6)
        log.ended(done)
        log.end("FINISHED", [done])
        for _ in range(2):
            sweep.forget_acknowledgements(
                store,
                lambda: sweep.begin(store, uri=uri).end("FINISHED", [done]),  # noqa: B023
            )
    assert sweep.read_runs(tracking_database) == runs()


def test_a_sweep_shows_its_best_trials_and_the_columns_people_compare_by(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    known = [
        replace(sweep.record(n, "complete", 0.6 + n / 100, **sweep.FACTS), params={"alpha": n / 10})
        for n in range(7)
    ]
    sweep.begin(tracked, records=known, folds=2).end("FINISHED", known)
    note = runs()["smoke"]["tags"]["mlflow.note.content"]
    assert "| 6 | 0.660 | 0.650 | - | alpha 0.6 |" in note
    tags = client_of(tracked).get_experiment("1").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.5eed"])
    assert view["orderByKey"] == "metrics.`best_val_auc`"
    assert {"metrics.`fold_1/test_auc`", "metrics.`test_auc_low`", "params.`alpha`"} <= set(
        view["selectedColumns"]
    )
    page = sweep.make_writer(default_uri(tracked), tracked)
    page.open(running=False)
    assert page.runs_page == "#/experiments/1/runs?viewStateShareKey=5eed&workflowType=machine_learning"
    assert page.runs_page in note


def test_a_trial_leads_to_its_sweep_and_to_the_report_and_keeps_what_people_write(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    done = sweep.record(0, "complete", 0.7, **sweep.FACTS)
    log = sweep.begin(tracked, folds=2)
    sweep.play(log, 0, 0.5)
    log.ended(done)
    log.end("FINISHED", [done])
    ids = sweep.run_ids(default_uri(tracked))
    client = client_of(tracked)
    note = client.get_run(ids["trial 0"]).data.tags["mlflow.note.content"]
    parent = f"#/experiments/1/runs/{ids['smoke']}"
    assert note == (
        f"Part of [smoke]({parent}?{WORKFLOW}). "
        f"Its [report]({parent}/artifacts/report.html?{WORKFLOW}) is there once "
        "`cgn report smoke` has made it."
    )
    client.set_tag(ids["trial 0"], "mlflow.note.content", "a word of mine")
    writer = sweep.make_writer(default_uri(tracked), tracked, replace(sweep.INFO, folds=2))
    writer.open(running=False)
    writer.reconcile([done], whole=True)
    assert runs()["trial 0"]["tags"]["mlflow.note.content"] == "a word of mine"
    client.delete_tag(ids["trial 0"], "mlflow.note.content")  # as earlier versions left it
    writer.reconcile([done], whole=True)
    assert runs()["trial 0"]["tags"]["mlflow.note.content"].startswith("Part of [smoke]")


def test_another_kind_of_experiment_that_people_chose_is_kept(tracked: Store, sweep: Any) -> None:
    sweep.begin(tracked).end("FINISHED", [])
    client = client_of(tracked)
    client.set_experiment_tag("1", "mlflow.experimentKind", "finetuning")
    sweep.begin(tracked).end("FINISHED", [])
    assert client.get_experiment("1").tags["mlflow.experimentKind"] == "finetuning"
