import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cgn.config import Config
from cgn_platform.cli.commands import app
from cgn_platform.store.layout import Store
from cgn_platform.tracking import tables
from cgn_platform.tracking.delivery import track
from cgn_platform.tracking.mlflow_client import connect, default_uri
from cgn_platform.tracking.outbox import DATABASE

CONFIG = Config(epochs=2).edit(alpha=0.25)


def write_table(store: Store, rows: list[dict[str, Any]], seeds: int = 2, when: int = 10) -> dict[str, Any]:
    """The files of a table that has run."""
    facts = {
        "kind": "table",
        "name": "t",
        "title": "III",
        "baseline": "none",
        "data": {"name": "phantom", "cache": "c0ffee", "splits": "5", "folds": 2, "pairs": 9, "patients": 8},
        "detectable": 0.1,
        "rows": rows,
        "run": {
            "code": "c0de",
            "git_commit": "unknown",
            "mode": "frozen",
            "seeds": list(range(seeds)),
            "when": f"2030-01-01T00:00:{when}+0000",
            "wall_seconds": 5.0,
        },
    }
    report = store.report("t")
    report.folder.mkdir(parents=True, exist_ok=True)
    report.declaration.write_text("{}")
    report.facts.write_text(json.dumps(facts))
    return facts


def row(name: str, why: str | None = None, seeds: int = 2, **more: Any) -> dict[str, Any]:
    config = CONFIG.model_dump(mode="json")
    facts = {"name": name, "published": {"a": 0.885}, "complete": why is None, "why": why, "config": config}
    if why is None:
        aucs = [[0.5, 0.7], [0.6, 0.9]][:seeds]
        interval = {"estimate": 0.675, "low": 0.55, "high": 0.8}
        facts |= {"seconds": 8.0, "fold_auc": aucs, "val_auc": aucs, "auc": interval, "difference": None}
    return facts | more


BASE = row("none")
GAP = {"estimate": 0.1, "low": -0.02, "high": 0.2, "p_value": 0.1}
BEST = row("adain | gan", difference=GAP, p_adjusted=0.2, words="not distinguishable")


def send(store: Store, rows: list[dict[str, Any]], uri: str | None = None, **more: Any) -> list[str]:
    """Run a table and track it; returns the warnings."""
    lines: list[str] = []
    facts = write_table(store, rows, **more)
    tables.track_table(facts, store=store, uri=uri or default_uri(store), warn=lines.append)
    return lines


def test_a_table_is_a_parent_and_each_row_a_child(tracked: Store, runs: Any) -> None:
    assert send(tracked, [BASE, BEST, row("crashed", "1 of 4 units are missing: a bug")]) == []
    shown = runs()
    assert {name: run["status"] for name, run in shown.items()} == {
        "t": "FAILED",
        "none": "FINISHED",
        "adain | gan": "FINISHED",
        "crashed": "FAILED",
    }
    best = shown["adain | gan"]
    assert best["params"]["alpha"] == "0.25"
    assert best["metrics"] == {
        "best_val_auc": 0.675,
        "test_auc": 0.675,
        "test_auc_low": 0.55,
        "test_auc_high": 0.8,
        "fold_0/test_auc": 0.55,
        "fold_1/test_auc": pytest.approx(0.8),
        "seconds": 8.0,
        "difference": 0.1,
        "difference_low": -0.02,
        "difference_high": 0.2,
        "p_adjusted": 0.2,
    }
    assert best["tags"]["published.a"] == "0.885"
    assert best["tags"]["cgn.words"] == "not distinguishable"
    assert best["tags"]["cgn.row"] == "t/1"
    assert best["tags"]["fingerprint"] == CONFIG.fingerprint()
    assert (best["tags"]["cache"], best["tags"]["code"], best["tags"]["seeds"]) == ("c0ffee", "c0de", "2")
    crashed = shown["crashed"]
    assert crashed["metrics"] == {}
    assert crashed["tags"]["cgn.state"] == "INCOMPLETE"
    assert crashed["tags"]["mlflow.note.content"].startswith(
        "INCOMPLETE: 1 of 4 units are missing: a bug\n\nPart of [t](#/experiments/1/runs/"
    )
    assert shown["t"]["metrics"] == {"detectable": 0.1}
    assert shown["t"]["tags"]["cgn.state"] == "1 of 3 rows are INCOMPLETE"
    note = shown["t"]["tags"]["mlflow.note.content"]
    assert r"| adain \| gan | 0.675 [0.550, 0.800], better than chance | +0.100 [-0.020, +0.200] | " in note
    assert "| crashed | INCOMPLETE |  | 1 of 4 units are missing: a bug |" in note
    assert "| none | 0.675 [0.550, 0.800], better than chance |  | the baseline |" in note
    assert "cgn report t" in note


def test_the_same_table_again_changes_nothing_and_new_figures_are_new_points(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    uri = default_uri(tracked)
    send(tracked, [BASE, BEST], seeds=1)
    before, ids = runs(), sweep.run_ids(uri)
    send(tracked, [BASE, BEST], seeds=1, when=30)
    assert runs() == before
    better = {**BEST, "fold_auc": [[0.7, 0.7]], "auc": {"estimate": 0.7, "low": 0.6, "high": 0.8}}
    send(tracked, [BASE, better], when=40)
    assert sweep.run_ids(uri) == ids
    _, client = connect(uri)
    points = client.get_metric_history(ids["adain | gan"], "test_auc")
    assert [point.value for point in points] == [0.675, 0.7]
    assert client.get_run(ids["adain | gan"]).data.metrics["test_auc"] == 0.7  # the last one
    assert client.get_run(ids["none"]).data.tags["seeds"] == "2"


def test_a_row_that_lacks_a_unit_now_shows_no_mean_of_before(tracked: Store, runs: Any, sweep: Any) -> None:
    send(tracked, [BASE, BEST])
    ids = sweep.run_ids(default_uri(tracked))
    missing = row("adain | gan", "2 of 6 units are missing: not trained yet")
    send(tracked, [BASE, missing], seeds=3, when=20)
    assert runs()["adain | gan"]["metrics"] == {}
    assert sweep.run_ids(default_uri(tracked))["none"] == ids["none"]
    send(tracked, [BASE, BEST], when=30)
    shown = runs()["adain | gan"]
    assert (shown["status"], shown["tags"]["cgn.reason"]) == ("FINISHED", "")
    assert shown["metrics"]["test_auc"] == 0.675
    before = runs()
    _, client = connect(default_uri(tracked))
    client.delete_experiment("1")
    (deleted,) = send(tracked, [BASE, BEST], when=30)
    assert deleted.startswith("the table is not in MLflow yet: somebody deleted the experiment 'phantom'")
    client.restore_experiment("1")  # with every run that was deleted before
    assert send(tracked, [BASE, BEST], when=30) == []
    assert runs() == before


def test_a_server_that_was_away_gets_tables_and_an_empty_one_too(
    tracked: Store, another: str, runs: Any, sweep: Any
) -> None:
    (away,) = send(tracked, [BASE, BEST], uri=sweep.NOWHERE)
    assert away.startswith("MLflow cannot be written (")
    assert "'cgn track --store" in away
    for _ in range(2):
        assert track(tracked, default_uri(tracked)) == ["t"]
        assert track(tracked, another, rebuild=True, name="t") == ["t"]
    assert sweep.read_runs(another) == runs()
    assert set(runs()) == {"t", "none", "adain | gan"}
    tracked.report("t").declaration.write_text("another one")
    lines: list[str] = []
    assert track(tracked, another, warn=lines.append) == []
    assert lines == ["left out: t has no facts any more, or its name now belongs to another table"]


def test_a_damaged_outbox_of_a_table_is_one_line_and_the_table_is_written(tracked: Store, runs: Any) -> None:
    send(tracked, [BASE])
    (outbox,) = tracked.outboxes()
    (outbox / DATABASE).write_bytes(b"no database" * 1000)
    (line,) = send(tracked, [BASE, BEST], when=20)
    assert line.startswith(f"{outbox / DATABASE} is damaged (")
    assert set(runs()) == {"t", "none", "adain | gan"}
    assert track(tracked, default_uri(tracked)) == ["t"]


def test_the_report_is_an_artifact_of_the_parent_once(tracked: Store, runs: Any) -> None:
    send(tracked, [BASE, BEST])
    page = tracked.report("t").page
    for text in ("first", "first", "second"):
        page.write_text(text)
        assert track(tracked, default_uri(tracked), name="t") == ["t"]
        assert [path.read_text() for path in tracked.mlflow_artifacts.rglob("report.html")] == [text]
    assert (
        "The report is the artifact [`report.html`](#/experiments/1/runs/"
        in runs()["t"]["tags"]["mlflow.note.content"]
    )


def test_cgn_report_adds_its_page_to_mlflow_or_says_that_it_waits(
    tracked: Store, runs: Any, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tracked.report("t").page

    def write(*_: Any) -> Path:
        page.write_text("the page")
        return page

    monkeypatch.setattr("cgn_platform.report.page.write_report", write)
    page.parent.mkdir(parents=True)
    command = ["report", "t", "--store", str(tracked)]
    untracked = CliRunner().invoke(app, command)
    assert (untracked.exit_code, untracked.stderr) == (0, "")
    page.unlink()
    send(tracked, [BASE, BEST])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sweep.NOWHERE)
    away = CliRunner().invoke(app, command)
    assert (away.exit_code, away.stdout) == (0, f"{page}\n")
    assert away.stderr.startswith("the page is not in MLflow yet, 'cgn track' adds it: MLflow cannot be")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "cgn.report" not in runs()["t"]["tags"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert "cgn.report" in runs()["t"]["tags"]


def test_a_description_that_somebody_edited_is_kept(tracked: Store, runs: Any, sweep: Any) -> None:
    send(tracked, [BASE])
    uri = default_uri(tracked)
    _, client = connect(uri)
    client.set_tag(sweep.run_ids(uri)["t"], "mlflow.note.content", "look at row 3")
    send(tracked, [BASE, BEST], when=20)
    assert runs()["t"]["tags"]["mlflow.note.content"] == "look at row 3"
