"""Stored bytes keep their meaning: what commit 0cfa8ab wrote opens with today's code and reads the same.

The store is `tests/fixtures/store_0cfa8ab.tar.xz`; `expected` is what the code of that commit read from it. A
changed format needs a migration, or a refusal with a typed error, and a test of it here.
"""

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

# The public names that open stored bytes, in one place: modules may move, what they read may not change.
from cgn.data.cache import open_cache, open_splits
from cgn.data.folds import splits_fingerprint
from cgn.data.reading.films import FilmPair
from cgn.errors import (
    CacheError,
    CGNError,
    ConfigError,
    LedgerError,
    ModelError,
    PlatformError,
    RegistryError,
    StudyError,
)
from cgn.predict import Ensemble
from cgn_platform.cli.commands import app
from cgn_platform.registry.gate import Requirements
from cgn_platform.registry.promotion import promote
from cgn_platform.registry.record import read_record
from cgn_platform.registry.registry import Registry
from cgn_platform.registry.selection import PromotionRequest, cache_of
from cgn_platform.report.facts import read_facts
from cgn_platform.report.page import write_report
from cgn_platform.search.load import load_space, load_table
from cgn_platform.search.study import open_study, read_study, read_trials
from cgn_platform.serving.package import load
from cgn_platform.store.databases import study_url
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger
from cgn_platform.tracking.delivery import track
from cgn_platform.tracking.links import is_tracked
from cgn_platform.tracking.mlflow_client import connect, default_uri
from cgn_platform.tracking.outbox import Outbox

COMMAND = str(Path(sys.executable).with_name("cgn"))
TOLERANCE = 1e-6  # of predictions: another processor may round another way
FUTURE = 99  # a format number that no version has

Expected = Mapping[str, Any]


# ------------------------------------------------------------------------------------------ helpers


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def cgn(*arguments: str | Path) -> Result:
    """`cgn ...` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def cgn_alone(folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    """`cgn ...` in a process of its own, for what joins a Ray; returns its standard output."""
    command = [COMMAND, *arguments, "--store", str(folder / "runs")]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def store_in(folder: Path) -> Store:
    return Store(folder / "runs")


def cache_folder(folder: Path, expected: Expected) -> Path:
    return store_in(folder).caches / str(expected["cache"]["folder"])


def ledger_of(folder: Path) -> Ledger:
    return Ledger(store_in(folder).units)


def registry_of(store: Store) -> Registry:
    return Registry(default_uri(store), "cgn", store.mlflow_artifacts)


def identity_of(expected: Expected) -> dict[str, str]:
    """What the studies were made from."""
    return {"cache": expected["cache"]["fingerprint"], "splits": expected["cache"]["splits_fingerprint"]}


def plain_trial(record: Any) -> dict[str, Any]:
    """A trial as the expectations have it."""
    return {
        "number": record.number,
        "state": record.state,
        "value": record.value,
        "params": dict(record.params),
        "curve": {str(epoch): value for epoch, value in record.curve.items()},
        "config": record.config and record.config.model_dump(mode="json"),
        "facts": dict(record.facts),
        "began": record.began,
        "ended": record.ended,
    }


def assert_same_trials(records: Any, trials: list[dict[str, Any]]) -> None:
    """Every stored field has its stored value; a configuration may have gained fields since."""
    today = [plain_trial(record) for record in records]
    for trial, stored in zip(today, trials, strict=True):
        if stored["config"] is not None:
            assert stored["config"].items() <= trial["config"].items()
        assert {**trial, "config": None} == {**stored, "config": None}


def runs_at(uri: str) -> list[dict[str, Any]]:
    """Runs of an MLflow, without those that were deleted."""
    _, client = connect(uri)
    experiments = {experiment.experiment_id: experiment.name for experiment in client.search_experiments()}
    return [
        {
            "experiment": experiments[run.info.experiment_id],
            "name": run.info.run_name,
            "status": run.info.status,
            "params": dict(run.data.params),
            "metrics": dict(run.data.metrics),
            "tags": dict(run.data.tags),
        }
        for run in client.search_runs(list(experiments))
    ]


def children(runs: list[dict[str, Any]], study: str) -> dict[int, dict[str, Any]]:
    """Runs of the trials or rows of a study, by number."""
    by_number: dict[int, dict[str, Any]] = {}
    for run in runs:
        place = run["tags"].get("cgn.trial") or run["tags"].get("cgn.row", "")
        name, _, number = place.rpartition("/")
        if name == study:
            assert int(number) not in by_number, f"{place} has two runs"
            by_number[int(number)] = run
    return by_number


def reseal(path: Path, **changes: Any) -> None:
    """Change a sealed file and give it the hash that it then must have."""
    facts = json.loads(path.read_text())
    del facts["sha256"]
    facts |= changes
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps(facts | {"sha256": digest(canonical.encode())}))


def edit_database(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement).rowcount == 1


# ------------------------------------------------------------------------------------------- caches


def test_the_cache_opens_with_the_same_pairs(unpacked: Path, expected: Expected) -> None:
    stored = expected["cache"]
    pairs = open_cache(cache_folder(unpacked, expected))
    assert len(pairs) == 18
    assert {name: getattr(pairs, name) for name in ("name", "fingerprint", "size")}.items() <= stored.items()
    assert {name: getattr(pairs, name).tolist() for name in stored["columns"]} == stored["columns"]
    assert [list(kinds) for kinds in pairs.kinds] == stored["kinds"]
    assert [[list(box) for box in boxes] for boxes in pairs.boxes] == stored["boxes"]
    assert pairs.reference_has_lesion.tolist() == stored["reference_has_lesion"]
    pixels = {name: digest(getattr(pairs, name).tobytes()) for name in stored["pixels"]}
    assert pixels == stored["pixels"]
    assert pairs.recipe["format"] == 2
    assert pairs.healthy is None  # since format 3


def test_the_cache_has_the_same_folds(unpacked: Path, expected: Expected) -> None:
    folder = cache_folder(unpacked, expected)
    splits = open_splits(folder)
    assert [
        {"fold": s.fold, "train": s.train.tolist(), "val": s.val.tolist(), "test": s.test.tolist()}
        for s in splits
    ] == expected["cache"]["splits"]
    # Studies and units name the folds by this hash.
    named = splits_fingerprint(open_cache(folder).pair_id, splits)
    assert named == expected["cache"]["splits_fingerprint"]


@pytest.mark.parametrize("name", ["old-sweep", "old-table"])
def test_the_store_finds_the_cache_of_stored_facts(unpacked: Path, expected: Expected, name: str) -> None:
    store = store_in(unpacked)
    assert cache_of(store, read_facts(store, name)) == str(cache_folder(unpacked, expected))


# ------------------------------------------------------------------------------------------- ledger


def test_all_units_are_listed_and_whole(unpacked: Path, expected: Expected) -> None:
    ledger = ledger_of(unpacked)
    assert ledger.names() == sorted(expected["units"])
    assert [ledger.damage(name) for name in ledger.names()] == [None] * len(expected["units"])


def test_units_have_the_same_identity_and_epochs(unpacked: Path, expected: Expected) -> None:
    for name, stored in expected["units"].items():
        unit = ledger_of(unpacked).open(name)
        assert {field: getattr(unit.identity, field) for field in stored["identity"]} == stored["identity"]
        reports = [{**vars(r), "val_scores": r.val_scores.tolist()} for r in unit.reports]
        assert len(reports) == 3
        for report, old in zip(reports, stored["reports"], strict=True):
            assert {field: report[field] for field in old} == old


def test_units_have_the_same_predictions_and_result(unpacked: Path, expected: Expected) -> None:
    for name, stored in expected["units"].items():
        unit = ledger_of(unpacked).open(name)
        assert unit.predictions.to_pylist() == stored["predictions"]
        result = unit.result
        assert {field: getattr(result, field) for field in stored["result"]} == stored["result"]
        old = stored["result_predictions"]
        assert {field: getattr(result.predictions, field).tolist() for field in old} == old


def test_units_have_the_same_tensors(unpacked: Path, expected: Expected) -> None:
    for name, stored in expected["units"].items():
        model = ledger_of(unpacked).open(name).model()
        assert {k: digest(v.numpy().tobytes()) for k, v in model.items()} == stored["model"]


def test_units_of_format_1_say_why_they_are_not_reused(unpacked: Path, expected: Expected) -> None:
    for name in expected["units"]:
        assert "format 1" in (ledger_of(unpacked).open(name).outdated or "")


def test_the_interrupted_fold_is_listed(unpacked: Path, expected: Expected) -> None:
    assert ledger_of(unpacked).unfinished() == expected["unfinished"]
    assert len(expected["unfinished"]) == 1


def test_the_checkpoint_of_that_fold_is_read(unpacked: Path, expected: Expected) -> None:
    """No sweep asks for an identity of format 1, but the checkpoint is still read by it."""
    stored = expected["checkpoint"]
    state = ledger_of(unpacked).checkpoints(Identity(**stored["identity"])).load()
    assert state is not None
    assert len(state.facts["reports"]) == stored["reports"] == expected["unfinished"][stored["id"]]
    assert digest(json.dumps(state.facts, sort_keys=True).encode()) == stored["facts"]
    assert {k: digest(v.numpy().tobytes()) for k, v in state.tensors.items()} == stored["tensors"]


def test_cgn_units_lists_verifies_and_shows_them(unpacked: Path, expected: Expected) -> None:
    store = ("--store", unpacked / "runs")
    listed = cgn("units", *store)
    assert listed.exit_code == 0, listed.output
    for name in (*expected["units"], *expected["unfinished"]):
        assert name in listed.output
    verified = cgn("units", "--verify", *store)
    assert (verified.exit_code, "6 of 6 units" in verified.output) == (0, True)
    first = min(expected["units"])
    shown = json.loads(cgn("units", first, *store).output)
    assert shown["identity"] == expected["units"][first]["identity"]
    assert shown["result"]["test_auc"] == expected["units"][first]["result"]["test_auc"]


# ------------------------------------------------------------------------------------------ studies


@pytest.mark.parametrize("name", ["old-sweep", "old-away", "old-killed"])
def test_trials_have_the_same_states_values_and_parameters(
    unpacked: Path, expected: Expected, name: str
) -> None:
    declaration, records = read_study(name, store_in(unpacked))
    assert declaration == expected["studies"][name]["declaration"]
    assert_same_trials(records, expected["studies"][name]["trials"])


def test_the_stored_sweeps_have_complete_pruned_and_running_trials(expected: Expected) -> None:
    states = {name: [t["state"] for t in study["trials"]] for name, study in expected["studies"].items()}
    assert states["old-sweep"] == ["complete", "complete", "pruned"]
    assert states["old-killed"] == ["running", "waiting", "waiting"]


def test_trials_are_found_by_the_name_and_id_in_their_outbox(unpacked: Path, expected: Expected) -> None:
    for name, study in expected["studies"].items():
        study_id = expected["outboxes"][name]["notes"]["parent"]["study_id"]
        records = read_trials(name, study_id, study_url(store_in(unpacked)))
        assert records is not None
        assert_same_trials(records, study["trials"])


@pytest.mark.parametrize(
    ("name", "trials", "base", "remaining", "orphans"),
    [("old-sweep", 3, {}, 0, 0), ("old-away", 2, {}, 0, 0), ("old-killed", 2, {"epochs": 400}, 2, 1)],
)
def test_the_same_declaration_opens_the_study_again(
    writable: Path,
    expected: Expected,
    name: str,
    trials: int,
    base: dict[str, Any],
    remaining: int,
    orphans: int,
) -> None:
    space = load_space(writable / "old_sweep.py").edit(trials, **base)
    ended = [t for t in expected["studies"][name]["trials"] if t["state"] in ("complete", "pruned")]
    with open_study(name, space, store=store_in(writable), identity=identity_of(expected)) as study:
        assert study.remaining() == remaining
        assert study.orphans == orphans
        records = study.trials()
    assert_same_trials([r for r in records if r.state in ("complete", "pruned")], ended)


def test_another_search_under_the_stored_name_is_refused(writable: Path, expected: Expected) -> None:
    space = load_space(writable / "old_sweep.py").edit(3, epochs=4)
    with pytest.raises(StudyError, match="epochs"):
        open_study("old-sweep", space, store=store_in(writable), identity=identity_of(expected))


@pytest.mark.integration
def test_the_same_sweep_again_trains_nothing(
    writable: Path, expected: Expected, environment: dict[str, str]
) -> None:
    store = store_in(writable)
    facts, runs = read_facts(store, "old-sweep"), runs_at(default_uri(store))
    data = str(cache_folder(writable, expected))
    arguments = ("--data", data, "--name", "old-sweep", "--trials", "3", "--concurrent", "1")
    output = cgn_alone(writable, environment, "sweep", "old_sweep.py", *arguments)
    assert "2 complete, 1 pruned" in output
    assert ledger_of(writable).names() == sorted(expected["units"])
    assert ledger_of(writable).unfinished() == expected["unfinished"]
    assert_same_trials(read_study("old-sweep", store)[1], expected["studies"]["old-sweep"]["trials"])
    # Today's code makes the same facts of the stored units, and MLflow still has every run once. Importances
    # are withheld now for so few trials, and rows have further figures.
    again = read_facts(store, "old-sweep")
    changed = {"run", "importances"}
    rows = [{name: row[name] for name in old} for old, row in zip(facts["rows"], again["rows"], strict=True)]
    assert {**{name: again[name] for name in facts if name not in changed}, "rows": rows} == {
        name: value for name, value in facts.items() if name not in changed
    }
    assert again["importances"] == {}
    assert len(runs_at(default_uri(store))) == len(runs)


# ---------------------------------------------------------------------------------------- outboxes


@pytest.mark.parametrize("name", ["old-sweep", "old-away", "old-killed", "old-table"])
def test_outboxes_have_the_same_events_and_notes(unpacked: Path, expected: Expected, name: str) -> None:
    stored = expected["outboxes"][name]
    outbox = Outbox(store_in(unpacked).outbox(stored["folder"]))
    assert (outbox.acknowledged, outbox.gap) == (stored["acknowledged"], stored["gap"])
    assert outbox.pending == len(stored["pending"])
    assert outbox.notes == stored["notes"]
    assert list(outbox.read()) == stored["pending"]
    assert is_tracked(store_in(unpacked), name)


def test_the_stored_outboxes_are_delivered_partly_wholly_and_not_at_all(expected: Expected) -> None:
    states = {n: (o["acknowledged"] > 0, bool(o["pending"])) for n, o in expected["outboxes"].items()}
    assert states["old-sweep"] == (True, False)
    assert states["old-away"] == (False, True)
    assert states["old-killed"] == (True, True)


@pytest.mark.integration
def test_pending_events_are_delivered_to_an_empty_mlflow(
    writable: Path, expected: Expected, tmp_path: Path
) -> None:
    store, uri = store_in(writable), f"sqlite:///{tmp_path / 'fresh.db'}"
    assert track(store, uri, name="old-away", ledger=ledger_of(writable)) == ["old-away"]
    outbox = Outbox(store.outbox(expected["outboxes"]["old-away"]["folder"]))
    assert (outbox.pending, list(outbox.read())) == (0, [])
    runs = children(runs_at(uri), "old-away")
    assert runs.keys() == {0, 1}
    for number, run in runs.items():
        trial = expected["studies"]["old-away"]["trials"][number]
        assert run["status"] == "FINISHED"
        assert run["metrics"]["best_val_auc"] == trial["value"]
        assert run["metrics"]["test_auc"] == trial["facts"]["test_auc"]
        assert run["params"]["alpha"] == str(trial["params"]["alpha"])


@pytest.mark.integration
def test_an_empty_mlflow_is_rebuilt_from_study_ledger_and_facts(
    writable: Path, expected: Expected, tmp_path: Path
) -> None:
    store, uri = store_in(writable), f"sqlite:///{tmp_path / 'fresh.db'}"
    names = track(store, uri, rebuild=True, ledger=ledger_of(writable))
    assert sorted(names) == ["old-away", "old-killed", "old-sweep", "old-table"]
    runs = runs_at(uri)
    for name in ("old-sweep", "old-table"):
        old, new = children(expected["runs"], name), children(runs, name)
        assert old.keys() == new.keys()
        for number, run in old.items():
            assert run["params"].items() <= new[number]["params"].items()
            pruned = new[number]["tags"].get("cgn.state") == "pruned"  # KILLED in earlier versions
            assert new[number]["status"] == ("FINISHED" if pruned else run["status"])
            assert new[number]["metrics"] == pytest.approx(run["metrics"], abs=1e-3)  # seconds are rounded
    assert children(runs, "old-killed")[0]["status"] == "KILLED"


@pytest.mark.integration
def test_the_stored_mlflow_gets_what_it_misses_and_nothing_twice(writable: Path, expected: Expected) -> None:
    store = store_in(writable)
    uri = default_uri(store)
    track(store, uri, ledger=ledger_of(writable))
    runs = runs_at(uri)
    assert children(runs, "old-away").keys() == {0, 1}
    killed = children(runs, "old-killed")
    assert {number: run["status"] for number, run in killed.items()} == {0: "KILLED"}
    for name in ("old-sweep", "old-table"):
        old, new = children(expected["runs"], name), children(runs, name)
        assert {n: run["metrics"] for n, run in old.items()} == {n: run["metrics"] for n, run in new.items()}
    parents = [run["name"] for run in runs if "cgn.study_id" in run["tags"]]
    assert sorted(parents) == ["old-away", "old-killed", "old-sweep", "old-table"]


# ----------------------------------------------------------------------------------------- reports


@pytest.mark.parametrize(("name", "title"), [("old-sweep", "old-sweep"), ("old-table", "Two rows")])
def test_the_page_is_made_of_stored_facts(writable: Path, expected: Expected, name: str, title: str) -> None:
    store = store_in(writable)
    facts = read_facts(store, name)
    pairs = open_cache(cache_folder(writable, expected))
    page = write_report(store, name, Ledger(store.units), pairs).read_text()
    assert f"<title>{title} on phantom</title>" in page
    assert 'src="data:image/png' in page  # pictures, of the stored networks
    assert len(facts["rows"]) == 2
    for number, row in enumerate(facts["rows"]):
        assert f'id="learning-{number}"' in page  # drawn where all units of the row are read
        place = f"rows.{number}.auc.estimate"
        assert f'<data value="{row["auc"]["estimate"]!r}" data-at="{place}"' in page


def test_the_table_is_declared_as_it_was(unpacked: Path, expected: Expected) -> None:
    """Otherwise today's code refuses the same table as another one."""
    stored = json.loads(store_in(unpacked).report("old-table").declaration.read_text())
    declared = json.loads(json.dumps(load_table(unpacked / "old_table.py").declaration()))
    assert declared == stored["table"]
    assert stored["data"]["cache"] == expected["cache"]["fingerprint"]


# ---------------------------------------------------------------------------------------- registry


def test_cgn_models_lists_the_promoted_version(unpacked: Path, expected: Expected) -> None:
    listed = cgn("models", "--store", unpacked / "runs")
    assert listed.exit_code == 0, listed.output
    (version,) = expected["versions"]
    for text in ("champion", "old-sweep", version["tags"]["cgn.by"], version["tags"]["cgn.auc"]):
        assert text in listed.output


def test_versions_have_the_same_aliases_and_tags(unpacked: Path, expected: Expected) -> None:
    versions = [
        {"number": version.number, "aliases": sorted(version.aliases), "tags": dict(version.tags)}
        for version in registry_of(store_in(unpacked)).versions()
    ]
    assert versions == expected["versions"]


def test_the_promoted_model_predicts_as_recorded(unpacked: Path, expected: Expected) -> None:
    target, reference, _, side = expected["arguments"]
    with load("models:/cgn@champion", store=store_in(unpacked), processes=1) as ensemble:
        assert ensemble.check() <= TOLERANCE
        (prediction,) = ensemble.predict([FilmPair.of(unpacked / target, unpacked / reference, side)])
    facts = prediction.facts()
    for name in ("p_malignant", "spread", "fold_p", "box"):
        assert facts[name] == pytest.approx(expected["prediction"][name], abs=TOLERANCE)
    assert list(facts["warnings"]) == expected["prediction"]["warnings"]


def test_decisions_are_read_as_they_were_recorded(unpacked: Path, expected: Expected) -> None:
    record = read_record(store_in(unpacked))
    assert record == expected["promotions"]
    assert [line["action"] for line in record] == ["refused", "promoted"]


LENIENT = Requirements(min_auc=0.0, margin=1.0)


def promote_from(folder: Path, expected: Expected, name: str, request: PromotionRequest) -> Any:
    store = store_in(folder)
    return promote(
        read_facts(store, name),
        open_cache(cache_folder(folder, expected)),
        request,
        store=store,
        registry=registry_of(store),
        ledger=ledger_of(folder),
    )


def test_the_same_promotion_again_changes_nothing(writable: Path, expected: Expected) -> None:
    """The version is found by a key that is computed as it was then."""
    outcome = promote_from(writable, expected, "old-sweep", PromotionRequest(by="ada", requirements=LENIENT))
    assert (outcome.action, outcome.version) == ("", "1")
    assert read_record(store_in(writable)) == expected["promotions"]


@pytest.mark.integration
def test_a_stored_row_is_promoted_beside_the_stored_champion(writable: Path, expected: Expected) -> None:
    """Its units are packaged, and compared with those that the champion's tags name."""
    outcome = promote_from(
        writable,
        expected,
        "old-table",
        PromotionRequest("0.5", alias="challenger", by="ada", requirements=LENIENT),
    )
    assert (outcome.action, outcome.version) == ("promoted", "2"), outcome.checks
    aliases = {version.number: version.aliases for version in registry_of(store_in(writable)).versions()}
    assert aliases == {"1": ("champion",), "2": ("challenger",)}


# ---------------------------------------------------------------------------------- future formats


def test_a_cache_of_an_unknown_format_is_refused(writable: Path, expected: Expected) -> None:
    manifest = cache_folder(writable, expected) / "manifest.json"
    reseal(manifest, recipe={**json.loads(manifest.read_text())["recipe"], "format": FUTURE})
    for opener in (open_cache, open_splits):
        with pytest.raises(CacheError, match="format 99"):
            opener(manifest.parent)


def test_a_unit_of_an_unknown_format_is_refused(writable: Path, expected: Expected) -> None:
    name, folder = min(expected["units"]), store_in(writable).units
    reseal(folder / name / "unit.json", format=FUTURE)
    with pytest.raises(LedgerError, match=f"unit {name} .*format 99"):
        ledger_of(writable).open(name)
    messages: list[str] = []
    assert Ledger(folder, warn=messages.append).find(name) is None
    assert "format 99" in messages[0]


def test_a_model_of_an_unknown_format_is_refused(writable: Path) -> None:
    (folder,) = writable.glob("runs/mlartifacts/*/artifacts/model/artifacts/ensemble")
    reseal(folder / "model.json", format=FUTURE)
    with pytest.raises(ModelError, match="format 99"):
        Ensemble.load(folder)


def test_a_studies_database_of_an_unknown_format_is_refused(writable: Path) -> None:
    store = store_in(writable)
    edit_database(store.studies, "UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    with pytest.raises(StudyError):
        read_study("old-sweep", store)


def test_an_mlflow_database_of_an_unknown_format_is_refused(writable: Path) -> None:
    store = store_in(writable)
    edit_database(store.mlflow_database, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(RegistryError):
        registry_of(store).versions()
    with pytest.raises(PlatformError):
        track(store, default_uri(store), name="old-away", ledger=ledger_of(writable))


@pytest.mark.parametrize("name", ["old-sweep", "old-table"])
def test_facts_of_an_unknown_format_are_refused(writable: Path, name: str) -> None:
    path = store_in(writable).report(name).facts
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FUTURE}))
    with pytest.raises(ConfigError):
        read_facts(store_in(writable), name)


def test_an_outbox_of_an_unknown_format_is_refused(writable: Path, expected: Expected) -> None:
    folder = store_in(writable).outbox(expected["outboxes"]["old-away"]["folder"])
    Outbox(folder).close()  # becomes a database
    with closing(sqlite3.connect(folder / "outbox.db")) as database:
        database.execute(f"PRAGMA user_version = {FUTURE}")
    with pytest.raises(CGNError, match="format 99"):
        Outbox(folder)


def test_decisions_of_an_unknown_format_are_refused(writable: Path) -> None:
    with store_in(writable).promotions.open("a") as file:
        file.write(json.dumps({"format": FUTURE}) + "\n")
    with pytest.raises(CGNError):
        read_record(store_in(writable))
