"""Promotion and rollback: what is registered, what is refused, and what a kill leaves behind."""

import json
import os
import runpy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, ModelError, RegistryError
from cgn_platform.cli.commands import app
from cgn_platform.registry import promotion
from cgn_platform.registry.gate import Requirements
from cgn_platform.registry.promotion import rollback
from cgn_platform.registry.record import read_record
from cgn_platform.registry.registry import Registry
from cgn_platform.report import sweep_facts
from cgn_platform.report.facts import write_facts
from cgn_platform.serving import package
from cgn_platform.space import Float, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

PLATFORM = Path(__file__).parents[1]
TRAINED = runpy.run_path(str(PLATFORM / "trained.py"))
BASE = Config(backbone="tiny", generator_blocks=1, epochs=4, batch_size=4, learning_rate=5e-3)
GOOD, OTHER, WEAK = "good", "other", "weak"
ANY = Requirements(min_auc=0, margin=1)


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def exchange(one: Path, two: Path) -> None:
    """Exchange two folders."""
    one.rename(one.with_name("aside"))
    two.rename(one)
    one.with_name("aside").rename(two)


def test_a_promoted_row_is_champion_with_its_evidence(
    promoter: Any, registry: Registry, store: Store, units: Path, pairs: Pairs
) -> None:
    decision = promoter(GOOD)
    assert (decision.action, decision.version, decision.replaced) == ("promoted", "1", None)
    assert promoter.aliases() == {"champion": "1"}
    (version,) = registry.versions()
    tags = version.tags
    assert (tags["cgn.by"], tags["cgn.because"], tags["cgn.row"]) == ("ada", "a test", GOOD)
    folder = registry.download("1", store.root)
    evidence = json.loads((folder / "evidence.json").read_text())
    assert evidence["candidate"]["units"] == json.loads(tags["cgn.units"])
    assert evidence["gate"]["demands"] == {"min_auc": 0.5, "margin": 0.6, "accept_unpaired": False}
    assert [check["name"] for check in evidence["gate"]["checks"]] == ["units", "auc", "champion", "reload"]
    assert evidence["data"]["cache"] == tags["cgn.cache"]
    with package.load(folder) as ensemble:
        assert ensemble.check() == 0
        served = ensemble.predict_prepared(pairs).fold_p
    for fold, name in enumerate(evidence["candidate"]["served"]):  # what is served is what was measured
        test = Ledger(units).open(name).result.predictions
        assert served[fold, test.index] == pytest.approx(test.p_malignant, abs=1e-6)
    (line,) = read_record(store)
    assert [line[name] for name in ("action", "version", "by", "because")] == [
        "promoted", "1", "ada", "a test",
    ]  # fmt: skip


def test_promoting_the_same_again_changes_nothing(promoter: Any, registry: Registry, store: Store) -> None:
    promoter(GOOD)
    again = promoter(GOOD)
    assert (again.action, again.version, again.refused) == ("", "1", False)
    assert (len(registry.versions()), len(read_record(store))) == (1, 1)


def test_a_worse_candidate_is_refused_and_the_refusal_is_recorded(
    promoter: Any, registry: Registry, store: Store, client: Any
) -> None:
    promoter(GOOD)
    decision = promoter(WEAK, Requirements(min_auc=0, margin=0.05))
    assert decision.refused
    refused = {check.name: check for check in decision.checks if not check.passed}
    assert "difference" in refused
    assert promoter.aliases() == {"champion": "1"}
    assert len(registry.versions()) == 1
    line = read_record(store)[-1]
    assert (line["action"], line["version"], line["row"]) == ("refused", None, WEAK)
    assert [check["words"] for check in line["checks"]] == [check.words for check in decision.checks]
    experiment = client.get_experiment_by_name("promotions").experiment_id
    runs = {run.data.tags["cgn.state"]: run for run in client.search_runs([experiment])}
    assert runs["refused"].info.status == "FAILED"
    assert runs["refused"].data.metrics["gate/difference"] == refused["difference"].figure
    assert {file.path for file in client.list_artifacts(runs["refused"].info.run_id)} == {"evidence.json"}


def test_a_row_that_is_not_complete_is_refused_with_its_missing_units(
    promoter: Any, registry: Registry
) -> None:
    decision = promoter("never run")
    assert decision.refused
    assert decision.checks[0].words.startswith(
        "units: 0 of 3 are complete and match the row, must be all of them: no unit "
    )
    assert registry.versions() == []


def test_a_damaged_unit_is_refused_by_name(
    promoter: Any, units: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(units, tmp_path / "units")
    damaged = tmp_path / "units" / facts["rows"][0]["units"][0][1] / "model.safetensors"
    flip_last_bit(damaged)
    decision = promoter(GOOD, ledger=Ledger(tmp_path / "units"))
    assert decision.refused
    assert f"model.safetensors of unit {damaged.parent.name} is damaged" in decision.checks[0].words


def test_units_in_exchanged_folders_are_refused(
    promoter: Any, units: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    ledger = shutil.copytree(units, tmp_path / "units")
    good, weak = (facts["rows"][row]["units"][0][1] for row in (0, 2))
    exchange(ledger / good, ledger / weak)
    decision = promoter(GOOD, ledger=Ledger(ledger))
    assert decision.refused
    assert f"unit.json of unit {good} is damaged (it belongs to unit {weak})" in decision.checks[0].words


def test_models_in_exchanged_folders_are_noticed(promoter: Any, registry: Registry, store: Store) -> None:
    promoter(GOOD)
    promoter(OTHER)
    one, two = (path.parent for path in sorted(store.mlflow_artifacts.rglob("MLmodel")))
    exchange(one, two)
    decision = rollback(store=store, registry=registry, by="bob", because="")
    assert decision.refused
    assert "the files of version 1 of cgn are those of another model" in decision.checks[0].words
    again = promoter(GOOD)
    assert [check.name for check in again.checks if not check.passed] == ["reload"]
    with pytest.raises(ModelError, match="the files of version 2 of cgn are those of another model"):
        package.load("models:/cgn@champion", store=store)
    assert promoter.aliases() == {"champion": "2", "previous": "1"}


def test_a_challenger_leaves_the_champion_in_place(promoter: Any, registry: Registry) -> None:
    promoter(GOOD)
    decision = promoter(OTHER, alias="challenger")
    assert (decision.action, decision.version, decision.replaced) == ("promoted", "2", None)
    assert promoter.aliases() == {"champion": "1", "challenger": "2"}
    assert promoter(OTHER).replaced == "1"  # the same version becomes champion
    assert promoter.aliases() == {"champion": "2", "previous": "1"}
    assert len(registry.versions()) == 2


def test_rollback_restores_the_previous_champion_once(
    promoter: Any, registry: Registry, store: Store
) -> None:
    promoter(GOOD)
    promoter(OTHER)
    decision = rollback(store=store, registry=registry, by="bob", because="worse in use")
    assert (decision.action, decision.version, decision.replaced) == ("rolled back", "1", "2")
    assert promoter.aliases() == {"champion": "1"}
    assert registry.versions()[0].tags["cgn.withdrawn"].endswith("by bob: worse in use")
    assert [line["action"] for line in read_record(store)] == ["promoted", "promoted", "rolled back"]
    with pytest.raises(RegistryError, match="no previous champion to return to"):
        rollback(store=store, registry=registry, by="bob", because="")
    assert promoter(OTHER).replaced == "1"  # a withdrawn version may pass the gate again
    assert promoter.aliases() == {"champion": "2", "previous": "1"}


def test_everything_temporary_is_in_folders_that_the_next_start_removes(
    promoter: Any, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "temporary"
    base.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(base))
    made: list[Path] = []
    mkdtemp = tempfile.mkdtemp

    def note(*arguments: Any, **named: Any) -> str:
        made.append(Path(mkdtemp(*arguments, **named)))
        return str(made[-1])

    monkeypatch.setattr("tempfile.mkdtemp", note)
    promoter(GOOD)
    promoter(OTHER)
    rollback(store=store, registry=promoter.registry, by="bob", because="")
    assert len(made) > 6
    roots = {folder.relative_to(base).parts[0] for folder in made}
    assert all(name.startswith(f"cgn-{os.getpid()}-") for name in roots)
    assert list(base.iterdir()) == []


class KilledError(BaseException):
    """Nothing catches it, as nothing catches signal 9."""


@pytest.mark.parametrize(
    "step", ["log_decision", "create_version", "set_alias", "second set_alias", "append_record"]
)
def test_after_a_kill_at_any_step_the_same_command_finishes(
    step: str, promoter: Any, registry: Registry, store: Store, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoter(GOOD)
    calls = 0
    name = step.rpartition(" ")[2]
    owner: Any = promotion if name == "append_record" else Registry
    original = getattr(owner, name)

    def kill_after(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(*arguments, **named)
        if calls == (2 if step.startswith("second") else 1):
            raise KilledError
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, kill_after)
        with pytest.raises(KilledError):
            promoter(OTHER)
    assert promoter(OTHER).version == "2"
    assert promoter.aliases() == {"champion": "2", "previous": "1"}
    assert len(registry.versions()) == 2
    assert [(line["action"], line["version"]) for line in read_record(store)] == [
        ("promoted", "1"), ("promoted", "2"),
    ]  # fmt: skip
    runs = client.search_runs([client.get_experiment_by_name("promotions").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]  # interrupted ones are deleted


def test_an_interrupted_rollback_is_finished(
    promoter: Any, registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoter(GOOD)
    promoter(OTHER)

    def kill(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "delete_alias", kill)
        with pytest.raises(KilledError):
            rollback(store=store, registry=registry, by="bob", because="")
    rollback(store=store, registry=registry, by="bob", because="")
    assert promoter.aliases() == {"champion": "1"}


def test_damaged_files_of_a_version_are_noticed(promoter: Any, registry: Registry, store: Store) -> None:
    promoter(GOOD)
    promoter(OTHER)
    for path in store.mlflow_artifacts.rglob("fold_0.safetensors"):
        flip_last_bit(path)
    decision = rollback(store=store, registry=registry, by="bob", because="")
    assert decision.refused
    assert "fold_0.safetensors" in decision.checks[0].words
    assert promoter.aliases() == {"champion": "2", "previous": "1"}
    assert read_record(store)[-1]["action"] == "refused"
    again = promoter(GOOD)  # the version exists, but its model cannot be loaded
    assert [check.name for check in again.checks if not check.passed] == ["reload"]


def test_a_version_that_mlflow_did_not_store_as_written_gets_no_alias(
    promoter: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Registry.create_version

    def damage(*arguments: Any) -> Any:
        for path in store.mlflow_artifacts.rglob("fold_0.safetensors"):
            flip_last_bit(path)
        return original(*arguments)

    monkeypatch.setattr(Registry, "create_version", damage)
    with pytest.raises(
        RegistryError, match=r"version 1 of cgn was not stored .*delete the version in MLflow"
    ):
        promoter(GOOD)
    assert promoter.aliases() == {}


def test_a_champion_that_changed_in_the_meantime_is_noticed(
    promoter: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another store may use the same server, and the lock is a file of one store."""
    promoter(GOOD)
    promoter(OTHER, alias="challenger")
    original = promotion.gate.evaluate

    def move_alias(*arguments: Any) -> Any:
        registry.set_alias("champion", "2")
        return original(*arguments)

    monkeypatch.setattr(promotion.gate, "evaluate", move_alias)
    with pytest.raises(RegistryError, match="was changed by another process in the meantime"):
        promoter(WEAK, ANY)
    assert promoter.aliases()["champion"] == "2"


def test_a_champion_of_unknown_units_is_replaced_only_if_that_is_accepted(
    promoter: Any, registry: Registry
) -> None:
    promoter(GOOD)
    registry.set_tags("1", {"cgn.units": "?"})
    assert "its tags do not name the units it was made from" in promoter(OTHER).checks[2].words
    decision = promoter(OTHER, Requirements(margin=0.6, accept_unpaired=True))
    assert decision.action == "promoted"
    (newest, _) = registry.versions()
    assert "--accept-unpaired" in json.dumps(registry.checks(newest))
    assert newest.tags["cgn.checks"] == "4 of 4 passed"
    registry.set_tags(newest.number, {"cgn.gate": '[{"name": "of an earlier version"}]'})
    assert registry.checks(registry.versions()[0]) == [{"name": "of an earlier version"}]


@pytest.fixture
def swept(
    facts: dict[str, Any],
    promoter: Any,
    pairs: Pairs,
    splits: tuple[Split, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """A sweep over the same units: trial 0 is the weak row."""
    monkeypatch.setattr(sweep_facts, "importances", lambda _name, _store: {})
    rows = {row["name"]: Config.of(row["config"]) for row in facts["rows"]}
    records = []
    for number, name in enumerate((WEAK, GOOD, OTHER)):
        units = [TRAINED["train_unit"](rows[name], fold, pairs, splits, promoter.ledger) for fold in range(3)]
        records.append(TRAINED["complete_trial"](number, rows[name], {}, units))
    space = Space(rows[WEAK], {"alpha": Float(0, 1)}, trials=3)
    site = TRAINED["make_site"](promoter.store, promoter.ledger)
    made = sweep_facts.sweep_facts(space, pairs, splits, name="swept", records=records, site=site)
    stored: dict[str, Any] = json.loads(json.dumps(made))
    return stored


def test_the_winner_of_a_sweep_is_evaluated_by_the_lower_of_corrected_and_test_auc(
    promoter: Any, swept: dict[str, Any]
) -> None:
    decision = promoter(None, Requirements(min_auc=1.0), facts=swept)
    (check,) = (check for check in decision.checks if not check.passed)
    lower = min(swept["corrected"]["estimate"], swept["rows"][-1]["auc"]["estimate"])
    assert check.figure == lower
    corrected = swept["corrected"]["estimate"]
    selected = f"{swept['raw']:.3f}, corrected for the selection {corrected:.3f} ["
    assert f"validation folds, which selected it, {selected}" in check.words
    assert promoter(None, Requirements(min_auc=lower - 0.01), facts=swept).action == "promoted"
    default = promoter("1", facts=swept)
    assert "selected" not in default.checks[1].words  # the default was not selected by its scores


# ------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory, train_facts: Callable[..., dict[str, Any]]) -> Path:
    """A store with a cache of phantoms, trained units and a table's facts."""
    store = Store(tmp_path_factory.mktemp("store"))
    cache = write_cache(
        "phantom", phantom.Options(pairs=24, seed=0), Preprocessing(32), SplitPlan(3), caches=store.caches
    ).path
    write_facts(store, train_facts(store.units, open_cache(cache), open_splits(cache)))
    return store.root


def test_the_commands(phantoms: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """0: done; 3: refused, with the reasons on standard error; 2: a mistake of the user."""
    shutil.copytree(phantoms, store, dirs_exist_ok=True)
    monkeypatch.setenv("CGN_STORE", str(store))
    runner = CliRunner()

    def cgn(*arguments: str) -> Any:
        return runner.invoke(app, arguments)

    promoted = cgn("promote", "three", "--row", "1", "--min-auc", "0", "--by", "ada", "--because", "first")
    assert promoted.exit_code == 0, promoted.stderr
    assert "promoted: version 1 of cgn is champion\n" in promoted.stdout
    assert promoted.stdout.count("passed  ") == 4
    again = cgn("promote", "three", "--row", "1")
    assert again.stdout == "nothing to do: version 1 of cgn is already champion\n"
    refused = cgn("promote", "three", "--row", "2", "--min-auc", "1", "--margin", "0")
    assert refused.exit_code == 3
    lines = refused.stderr.splitlines()
    assert lines[-1] == "refused: nothing was changed"
    assert any(line.startswith("refused  AUC: ") and line.endswith("above 1.000") for line in lines)
    assert any("the lower bound must be above -0.000" in line for line in lines)
    moved = cgn("promote", "three", "--row", "2", "--min-auc", "0", "--margin", "1")
    assert "promoted: version 2 of cgn is champion, in place of version 1" in moved.stdout
    listed = cgn("models").stdout
    assert "champion" in listed
    assert "previous" in listed
    assert "2 versions" in listed
    back = cgn("rollback", "--because", "no reason")
    assert "rolled back: version 1 of cgn is champion, in place of version 2" in back.stdout
    assert isinstance(cgn("promote", "nix").exception, ConfigError)
    assert isinstance(cgn("promote", "three", "--row", "9").exception, ConfigError)
    shutil.rmtree(store.caches)
    assert "give it with --data" in str(cgn("promote", "three", "--row", "1").exception)


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server" / "mlflow.db")
    started = runpy.run_path(str(PLATFORM / "mlflow_server.py"))["Server"](tmp_path / "server")
    started.start()
    yield started
    started.kill()


@pytest.mark.integration
def test_promotion_and_rollback_on_a_server(server: Any, promoter: Any, store: Store) -> None:
    registry = Registry(server.uri, "cgn", store.root / "unused")
    remote = replace(promoter, registry=registry)
    assert remote(GOOD).version == "1"
    assert remote(OTHER).replaced == "1"
    assert remote.aliases() == {"champion": "2", "previous": "1"}
    with package.load(registry.download("2", store.root)) as ensemble:
        assert ensemble.check() == 0
    assert rollback(store=store, registry=registry, by="ada", because="").version == "1"
    assert not (store.root / "unused").exists()
