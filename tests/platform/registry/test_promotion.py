"""Who gets into the MLflow Model Registry, who does not, and the way back."""

import json
import runpy
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from cgn.config import Config
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, RegistryError
from cgn.fit import fit
from cgn.results import last
from cgn_platform.cli import app
from cgn_platform.cluster.resources import Resources
from cgn_platform.registry import promotion, record
from cgn_platform.registry.gate import Demands
from cgn_platform.registry.promotion import Outcome, PromotionRequest, promote, rollback
from cgn_platform.registry.record import read_record
from cgn_platform.registry.registry import Registry
from cgn_platform.report import sweep_facts
from cgn_platform.run.folds import read_or_train
from cgn_platform.search.records import TrialRecord
from cgn_platform.serving import package
from cgn_platform.space import Float, Row, Space, Table
from cgn_platform.store.ledger import Identity, Ledger
from cgn_platform.tracking import mlflow_client

HERE = Path(__file__).parent
BASE = Config(backbone="tiny", generator_blocks=1, epochs=4, batch_size=4, learning_rate=5e-3)
GOOD, OTHER, WEAK = "good", "other", "weak"
ROWS = (
    Row((GOOD,), {}),
    Row((OTHER,), {"alpha": 0.4}),
    Row((WEAK,), {"learning_rate": 1e-9, "epochs": 1}),
    Row(("never run",), {"beta": 2.0}),
)
WIDE = Demands(margin=0.6)  # three folds of eight pairs tell little apart


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CGN_STUDY_URL", "CGN_STORE", "CGN_LEDGER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "units"


@pytest.fixture(scope="module")
def facts(units: Path, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Of a table with three complete rows."""
    return table_of(units, pairs, splits)


def table_of(units: Path, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    from cgn_platform.report.table_facts import table_facts
    from cgn_platform.run.site import TrainingSpec
    from cgn_platform.run.table import make_plan

    declared, ledger = Table("Three", ("row",), ROWS, BASE, baseline=GOOD), Ledger(units)
    work = TrainingSpec(pairs, splits, Resources(), str(units))
    for job in make_plan(declared, work, 1, ledger).missing:
        if job.config != declared.config(ROWS[3]):
            train(job.config, job.number, pairs, splits, ledger)
    told = table_facts(declared, pairs, splits, make_plan(declared, work, 1, ledger), ledger)
    run = {"command": "cgn table three.py", "code": work.code, "git_commit": "abc", "when": "2026"}
    told |= {"kind": "table", "name": "three", "run": {**run, "seeds": [0], "ledger": ledger.where}}
    return json.loads(json.dumps(told))


def train(config: Config, fold: int, pairs: Pairs, splits: tuple[Split, ...], ledger: Ledger) -> Any:
    named = splits_fingerprint(pairs.pair_id, splits)
    identity = Identity.of(config, fold, splits=named, cache=pairs.fingerprint)
    last(
        read_or_train(ledger, identity, pairs, lambda memory: fit(config, pairs, splits[fold], memory=memory))
    )
    return ledger.open(identity.id)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making MLflow's tables takes seconds: once for all tests."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow_client.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def there(store: Path) -> Registry:
    return Registry(mlflow_client.default_uri(store), "cgn", store.root / "mlartifacts")


Ask = Callable[..., Outcome]


@pytest.fixture
def ask(store: Path, there: Registry, units: Path, facts: dict[str, Any], pairs: Pairs) -> Ask:
    """Promote a row of the table."""

    def run(row: str, demands: Demands = WIDE, **changes: Any) -> Outcome:
        given = {"facts": facts, "pairs": pairs, "ledger": Ledger(units), "alias": "champion"} | changes
        asked = PromotionRequest(row, 0, given["alias"], by="ada", because="a test")
        return promote(
            given["facts"],
            given["pairs"],
            asked,
            store=store,
            registry=there,
            ledger=given["ledger"],
            demands=demands,
        )

    return run


def aliases(there: Registry) -> dict[str, str]:
    return {alias: version.number for version in there.versions() for alias in version.aliases}


def test_who_passes_is_champion_with_all_that_speaks_for_it(
    ask: Ask, there: Registry, store: Path, units: Path, pairs: Pairs
) -> None:
    outcome = ask(GOOD)
    assert (outcome.action, outcome.version, outcome.before) == ("promoted", "1", None)
    assert aliases(there) == {"champion": "1"}
    (version,) = there.versions()
    tags = version.tags
    assert (tags["cgn.by"], tags["cgn.because"], tags["cgn.row"]) == ("ada", "a test", GOOD)
    folder = there.fetch("1", store)
    evidence = json.loads((folder / "evidence.json").read_text())
    assert evidence["candidate"]["units"] == json.loads(tags["cgn.units"])
    assert evidence["gate"]["demands"] == {"min_auc": 0.5, "margin": 0.6, "accept_unpaired": False}
    assert [check["name"] for check in evidence["gate"]["checks"]] == ["units", "auc", "champion", "reload"]
    assert evidence["data"]["cache"] == tags["cgn.cache"]
    auc = evidence["figures"]["auc"]
    card = (folder / "model_card.md").read_text()
    assert f"| {auc['estimate']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}] |" in card
    assert "Not a medical device" in card
    assert "screening" in card
    assert "| pairs (malignant) | 24 (12) |" in card
    assert "cgn table three.py" in card
    assert "\n\n\n" not in card
    with package.load(folder) as ensemble:
        assert ensemble.check() == 0
        said = ensemble.judge(pairs).fold_p
    for fold, name in enumerate(evidence["candidate"]["served"]):  # what is served is what was measured
        test = Ledger(units).open(name).result.predictions
        assert said[fold, test.index] == pytest.approx(test.p_malignant, abs=1e-6)
    (line,) = read_record(store)
    assert (line["action"], line["version"], line["by"], line["because"]) == (
        "promoted", "1", "ada", "a test",
    )  # fmt: skip


def test_the_same_again_does_nothing(ask: Ask, there: Registry, store: Path) -> None:
    ask(GOOD)
    again = ask(GOOD)
    assert (again.action, again.version, again.refused) == ("", "1", False)
    assert (len(there.versions()), len(read_record(store))) == (1, 1)


def test_a_worse_one_is_refused_and_that_is_recorded(ask: Ask, there: Registry, store: Path) -> None:
    ask(GOOD)
    outcome = ask(WEAK, Demands(min_auc=0, margin=0.05))
    assert outcome.refused
    refused = [check for check in outcome.checks if not check.passed]
    assert "difference" in {check.name for check in refused}
    assert aliases(there) == {"champion": "1"}
    assert len(there.versions()) == 1
    line = read_record(store)[-1]
    assert (line["action"], line["version"], line["row"]) == ("refused", None, WEAK)
    assert [check["words"] for check in line["checks"]] == [check.words for check in outcome.checks]
    client = there._client
    experiment = client.get_experiment_by_name("promotions").experiment_id
    runs = {run.data.tags["cgn.state"]: run for run in client.search_runs([experiment])}
    assert runs["refused"].info.status == "FAILED"
    assert runs["refused"].data.metrics["gate/difference"] == next(
        check.figure for check in refused if check.name == "difference"
    )
    assert {file.path for file in client.list_artifacts(runs["refused"].info.run_id)} == {"evidence.json"}


def test_a_row_that_is_not_complete_is_refused_by_its_missing_units(ask: Ask, there: Registry) -> None:
    outcome = ask("never run")
    assert outcome.refused
    assert outcome.checks[0].words.startswith(
        "units: 0 of 3 are whole and belong together, must be all of them: no unit "
    )
    assert there.versions() == []


def test_a_unit_that_was_touched_is_refused_by_name(
    ask: Ask, units: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(units, tmp_path / "units")
    touched = tmp_path / "units" / facts["rows"][0]["units"][0][1] / "model.safetensors"
    content = bytearray(touched.read_bytes())
    content[-1] ^= 1  # one bit of a weight
    touched.write_bytes(content)
    outcome = ask(GOOD, ledger=Ledger(tmp_path / "units"))
    assert outcome.refused
    assert f"model.safetensors of unit {touched.parent.name} is damaged" in outcome.checks[0].words


def test_units_of_another_row_are_no_evidence(ask: Ask, facts: dict[str, Any]) -> None:
    forged = json.loads(json.dumps(facts))
    forged["rows"][2]["units"][0][0] = facts["rows"][0]["units"][0][0]
    assert "units of different configurations stand in one row" in ask(WEAK, facts=forged).checks[0].words
    forged["rows"][2]["units"][0] = facts["rows"][0]["units"][0][:1] * 3
    assert "the folds must be [0, 1, 2] but are [0, 0, 0]" in ask(WEAK, facts=forged).checks[0].words


def test_a_challenger_only_adds(ask: Ask, there: Registry) -> None:
    ask(GOOD)
    outcome = ask(OTHER, alias="challenger")
    assert (outcome.action, outcome.version, outcome.before) == ("promoted", "2", None)
    assert aliases(there) == {"champion": "1", "challenger": "2"}
    assert ask(OTHER).before == "1"  # and may become champion, the same version
    assert aliases(there) == {"champion": "2", "previous": "1"}
    assert len(there.versions()) == 2


def test_the_way_back(ask: Ask, there: Registry, store: Path) -> None:
    ask(GOOD)
    ask(OTHER)
    assert aliases(there) == {"champion": "2", "previous": "1"}
    outcome = rollback(store=store, registry=there, by="bob", because="worse in use")
    assert (outcome.action, outcome.version, outcome.before) == ("rolled back", "1", "2")
    assert aliases(there) == {"champion": "1"}
    assert there.versions()[0].tags["cgn.withdrawn"].endswith("by bob: worse in use")
    assert [line["action"] for line in read_record(store)] == ["promoted", "promoted", "rolled back"]
    with pytest.raises(RegistryError, match="no previous champion to go back to"):
        rollback(store=store, registry=there, by="bob", because="")
    assert ask(OTHER).before == "1"  # nothing is lost: through the gate again, the same version
    assert aliases(there) == {"champion": "2", "previous": "1"}


class Killed(BaseException):
    """Nobody catches it, as nobody catches signal 9."""


@pytest.mark.parametrize(
    "step", ["log_decision", "create_version", "set_alias", "second set_alias", "append_record"]
)
def test_killed_after_any_step_the_same_command_finishes(
    step: str, ask: Ask, there: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(GOOD)
    calls = 0
    name = step.rpartition(" ")[2]
    owner: Any = promotion if name == "append_record" else Registry
    real = getattr(owner, name)

    def cut(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        done = real(*arguments, **named)
        if calls == (2 if step.startswith("second") else 1):
            raise Killed
        return done

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut)
        with pytest.raises(Killed):
            ask(OTHER)
    outcome = ask(OTHER)
    assert outcome.version == "2"
    assert aliases(there) == {"champion": "2", "previous": "1"}
    assert len(there.versions()) == 2
    assert [(line["action"], line["version"]) for line in read_record(store)] == [
        ("promoted", "1"), ("promoted", "2"),
    ]  # fmt: skip
    client = there._client
    runs = client.search_runs([client.get_experiment_by_name("promotions").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]  # what was cut short is gone


def test_a_rollback_that_was_cut_short_is_finished(
    ask: Ask, there: Registry, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(GOOD)
    ask(OTHER)

    def cut(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "lift", cut)
        with pytest.raises(Killed):
            rollback(store=store, registry=there, by="bob", because="")
    rollback(store=store, registry=there, by="bob", because="")
    assert aliases(there) == {"champion": "1"}


def test_a_line_that_was_cut_short_costs_itself_alone(ask: Ask, store: Path) -> None:
    ask(GOOD)
    with (store.root / "promotions.jsonl").open("a") as file:
        file.write('{"when": "2026-')
    ask(OTHER)
    assert [line["version"] for line in read_record(store)] == ["1", "2"]


def test_files_of_a_version_that_were_touched_are_found(ask: Ask, there: Registry, store: Path) -> None:
    ask(GOOD)
    ask(OTHER)
    for kept in (store.root / "mlartifacts").rglob("fold_0.safetensors"):
        content = bytearray(kept.read_bytes())
        content[-1] ^= 1
        kept.write_bytes(content)
    outcome = rollback(store=store, registry=there, by="bob", because="")
    assert outcome.refused
    assert "fold_0.safetensors" in outcome.checks[0].words
    assert aliases(there) == {"champion": "2", "previous": "1"}
    assert read_record(store)[-1]["action"] == "refused"
    again = ask(GOOD)  # the version is found, and does not come back
    assert [check.name for check in again.checks if not check.passed] == ["reload"]


def test_one_decision_at_a_time(ask: Ask, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LOCK_SECONDS", 0.1)
    (store.root / "locks").mkdir()
    with (
        FileLock(store.root / "locks" / "promotions.lock"),
        pytest.raises(RegistryError, match="another promotion is at work"),
    ):
        ask(GOOD)


def test_nobody_is_compared_with_one_who_left_meanwhile(
    ask: Ask, there: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another store may share the server, and a lock of files does not reach there."""
    ask(GOOD)
    ask(OTHER, alias="challenger")
    real = promotion.gate.judge

    def meanwhile(*given: Any) -> Any:
        there.set_alias("champion", "2")
        return real(*given)

    monkeypatch.setattr(promotion.gate, "judge", meanwhile)
    with pytest.raises(RegistryError, match="was changed by somebody else meanwhile"):
        ask(WEAK, Demands(min_auc=0, margin=1))
    assert aliases(there)["champion"] == "2"


def test_a_champion_of_unknown_units_is_passed_only_on_demand(ask: Ask, there: Registry) -> None:
    ask(GOOD)
    there.set_tags("1", {"cgn.units": "?"})
    assert "its tags do not name the units it was made from" in ask(OTHER).checks[2].words
    outcome = ask(OTHER, replace(WIDE, accept_unpaired=True))
    assert outcome.action == "promoted"
    assert "--accept-unpaired" in there.versions()[0].tags["cgn.gate"]


@pytest.mark.parametrize(
    ("row", "changes", "told"),
    [
        ("nix", {}, "--row must be one of 1 = good; 2 = other; 3 = weak; 4 = never run but got 'nix'"),
        (None, {}, "--row must be one of 1 = good"),
        (GOOD, {"alias": "king"}, "--as must be champion or challenger but got 'king'"),
    ],
)
def test_what_cannot_be_asked(ask: Ask, row: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ask(row, **changes)


def test_another_cache_is_refused_and_a_seed_must_be_there(
    ask: Ask, store: Path, there: Registry, facts: dict[str, Any], pairs: Pairs, units: Path
) -> None:
    with pytest.raises(ConfigError, match="--data must be the cache 000000000000, which three ran on"):
        ask(GOOD, pairs=replace(pairs, fingerprint="1" * 12))
    asked = PromotionRequest("1", seed=3)
    with pytest.raises(ConfigError, match="--seed must be one of 0 but got 3"):
        promote(facts, pairs, asked, store=store, registry=there, ledger=Ledger(units), demands=WIDE)
    with pytest.raises(ConfigError, match="--model-name must be of letters"):
        Registry(there.uri, "a'b", store)


def test_a_registry_that_does_not_answer_is_one_line(store: Path) -> None:
    with pytest.raises(RegistryError, match=r"the model registry at http://127.0.0.1:9 fails"):
        Registry("http://127.0.0.1:9", "cgn", store).versions()


def test_the_winner_of_a_sweep_is_judged_by_what_bbc_leaves_of_it(
    ask: Ask, units: Path, pairs: Pairs, splits: tuple[Split, ...]
) -> None:
    ledger, records = Ledger(units), []
    for number, row in enumerate((ROWS[2], ROWS[0], ROWS[1])):
        config = BASE.edit(**row.changes)
        found = [train(config, fold, pairs, splits, ledger) for fold in range(3)]
        folds = [{n: unit.facts["result"][n] for n in ("test_auc", "val_auc", "seconds")} for unit in found]
        value = float(np.mean([fold["val_auc"] for fold in folds]))
        told = {"folds": folds, "units": [unit.id for unit in found], "seconds": 1.0}
        records.append(TrialRecord(number, "complete", value, {}, {}, config, told))
    run = {"command": "cgn sweep", "code": "c", "git_commit": "abc", "when": "2026", "ledger": "units"}
    swept = sweep_facts.facts_of_sweep(
        "swept", Space(BASE.edit(**ROWS[2].changes), {"alpha": Float(0, 1)}, trials=3), records, pairs,
        splits, ledger, importances={}, run=run,
    )  # fmt: skip
    swept = json.loads(json.dumps(swept))
    outcome = ask(None, Demands(min_auc=1.0), facts=swept)
    (check,) = (check for check in outcome.checks if not check.passed)
    figure = min(swept["corrected"]["estimate"], swept["rows"][-1]["auc"]["estimate"])
    assert check.figure == figure
    assert (
        f"{swept['raw']:.3f} as it was chosen by, corrected {swept['corrected']['estimate']:.3f} ["
        in check.words
    )
    outcome = ask(None, Demands(min_auc=figure - 0.01), facts=swept)
    assert outcome.action == "promoted"
    told = ask("1", facts=swept)
    assert "as it was chosen by" not in told.checks[1].words  # the default was not chosen by figures


# ------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a cache of phantoms, trained units and a table's facts."""
    store = tmp_path_factory.mktemp("store")
    cache = write_cache("phantom", phantom.Options(pairs=24, seed=0), size=32, folds=3, store=store).path
    told = table_of(store.root / "units", open_cache(cache), open_splits(cache))
    path = facts.facts_path(store, "three")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(told))
    return store


def test_the_verbs(phantoms: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0: done; 3: refused, the reasons on standard error; 2: a mistake."""
    shutil.copytree(phantoms, store, dirs_exist_ok=True)
    monkeypatch.setenv("CGN_STORE", str(store))
    runner = CliRunner()

    def cgn(*arguments: str) -> Any:
        return runner.invoke(app, arguments)

    done = cgn("promote", "three", "--row", "1", "--min-auc", "0", "--by", "ada", "--because", "first")
    assert done.exit_code == 0, done.stderr
    assert "promoted: version 1 of cgn is champion\n" in done.stdout
    assert done.stdout.count("passed  ") == 4
    again = cgn("promote", "three", "--row", "1")
    assert again.stdout == "nothing to do: version 1 of cgn is champion already\n"
    refused = cgn("promote", "three", "--row", "2", "--min-auc", "1", "--margin", "0")
    assert refused.exit_code == 3
    lines = refused.stderr.splitlines()
    assert lines[-1] == "refused: nothing was changed"
    assert any(line.startswith("refused  AUC: ") and line.endswith("above 1.000") for line in lines)
    assert any("the lower end must be above -0.000" in line for line in lines)
    moved = cgn("promote", "three", "--row", "2", "--min-auc", "0", "--margin", "1")
    assert "promoted: version 2 of cgn is champion; before it was version 1" in moved.stdout
    listed = cgn("models").stdout
    assert "champion" in listed
    assert "previous" in listed
    assert "2 versions" in listed
    back = cgn("rollback", "--because", "no reason")
    assert "rolled back: version 1 of cgn is champion; before it was version 2" in back.stdout
    assert isinstance(cgn("promote", "nix").exception, ConfigError)
    assert isinstance(cgn("promote", "three", "--row", "9").exception, ConfigError)
    shutil.rmtree(store.root / "cache")
    assert "give it with --data" in str(cgn("promote", "three", "--row", "1").exception)


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server" / "mlflow.db")
    made = runpy.run_path(str(HERE / "mlflow_server.py"))["Server"](tmp_path / "server")
    made.start()
    yield made
    made.kill()


@pytest.mark.integration
def test_on_a_server_too(server: Any, store: Path, facts: dict[str, Any], pairs: Pairs, units: Path) -> None:
    there = Registry(server.uri, "cgn", store.root / "unused")

    def ask(row: str) -> Outcome:
        asked = PromotionRequest(row, by="ada")
        return promote(facts, pairs, asked, store=store, registry=there, ledger=Ledger(units), demands=WIDE)

    assert ask(GOOD).version == "1"
    assert ask(OTHER).before == "1"
    assert aliases(there) == {"champion": "2", "previous": "1"}
    with package.load(there.fetch("2", store)) as ensemble:
        assert ensemble.check() == 0
    assert rollback(store=store, registry=there, by="ada", because="").version == "1"
    assert not (store.root / "unused").exists()
