"""Real Ray on this machine, with a simulated trainer."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from rich.console import Console

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.data.pairs import Pairs, Split
from cgn.errors import ClusterError, LedgerError, ResourcesError, StudyError
from cgn_platform.cluster import processes
from cgn_platform.cluster.resources import Cluster, Resources
from cgn_platform.search.records import TrialRecord
from cgn_platform.search.study import open_study
from cgn_platform.space import Choice, Float, Prune, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
DRIVER = Path(__file__).parents[1] / "driver.py"


@pytest.fixture
def sweep(
    ray: Cluster,
    store: Store,
    simulate: Any,
    listeners_of: Callable[..., Any],
    pairs: Pairs,
    splits: Sequence[Split],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., tuple[list[TrialRecord], str]]:
    """`run_sweep` with the simulated trainer and the listeners of `cgn sweep`; returns records and output."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("CGN_STUDY_URL", raising=False)

    def run(
        space: Space, name: str = "s", checkpoint_every: int = 5, **options: Any
    ) -> tuple[list[TrialRecord], str]:
        from cgn_platform.run.site import Site
        from cgn_platform.run.sweep import run_sweep

        ledger = options.pop("ledger", None) or Ledger(store.units, checkpoint_every)
        site = Site(store, ledger, ray, **{"runner": simulate, **options})
        output = StringIO()
        listeners = listeners_of(site, Console(file=output, width=200))
        records = run_sweep(space, pairs, splits, name=name, site=site, listeners=listeners)
        return records, output.getvalue()

    return run


def mlflow_runs(store: Store) -> dict[str, tuple[Any, list[tuple[int, float]]]]:
    """Runs by name with their curve."""
    client = MlflowClient(f"sqlite:///{store.mlflow_database}")
    experiment = client.get_experiment_by_name("squares")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len({run.info.run_name for run in runs}) == len(runs)

    def curve(run: Any) -> list[tuple[int, float]]:
        return [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "val_auc")]

    return {run.info.run_name: (run, curve(run)) for run in runs}


def test_a_sweep_prunes_records_and_agrees_with_mlflow(sweep: Any, store: Store) -> None:
    first = [(0.9, 1e-3), (0.8, 1e-3), (0.95, 1e-3), (0.05, 1e-3), (0.6, 0.095), (0.04, 1e-3), (0.6, 0.085)]
    space = Space(
        Config(alpha=1.0, epochs=6, beta=10.0, learning_rate=1e-3),
        {"alpha": Float(0, 1), "learning_rate": Float(1e-5, 1e-1, log=True)},
        trials=8,
        first=[{"alpha": a, "learning_rate": r} for a, r in first],
        prune=Prune("median", startup_trials=3, warmup_epochs=2),
    )
    records, output = sweep(space, concurrent=1)
    assert records[0].config == space.base
    states = {record.number: record.state for record in records}
    assert [states[n] for n in (0, 1, 2, 3, 5)] == ["complete"] * 4 + ["failed"]
    assert [states[n] for n in (4, 6)] == ["pruned"] * 2
    assert states[7] == "failed"
    assert states == dict(sorted(states.items()))

    for record in records:
        if record.state == "pruned":
            assert record.value is None
            assert list(record.curve) == list(range(len(record.curve)))
            assert 2 <= len(record.curve) < 6
        if record.state == "complete":
            assert len(record.curve) == 6
            assert record.facts["folds"][0]["localization_error"] == 0.25
            assert record.facts["localization_error"] is None
    assert "DivergedError" in records[5].facts["reason"]
    assert records[7].facts["reason"] == "ZeroDivisionError: a bug"

    runs = mlflow_runs(store)
    status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
    assert len(runs) == 9
    for record in records:
        run, curve = runs[f"trial {record.number}"]
        assert run.info.status == status[record.state]
        assert curve == [(epoch, pytest.approx(value)) for epoch, value in record.curve.items()]
    assert runs["s"][0].data.metrics["trials_pruned"] == 2
    assert "trial 4   pruned" in output
    assert "trial 5   failed" in output
    assert "started" in output


def test_a_score_that_is_not_a_number_fails_its_trial_only(sweep: Any) -> None:
    space = Space(
        Config(epochs=3), {"learning_rate": Choice((5e-5, 0.075))}, 2, first=[{"learning_rate": 0.075}]
    )
    records, _ = sweep(space)
    assert [record.state for record in records] == ["complete", "failed"]
    assert records[1].facts["reason"] == "the score of epoch 1 is not a number"
    assert list(records[1].curve) == [0]


def test_a_sweep_trains_what_cross_validate_trains(
    sweep: Any, tiny: Config, pairs: Pairs, splits: Sequence[Split]
) -> None:
    import torch

    from cgn.fit import cross_validate, last

    torch.set_num_threads(1)
    records, _ = sweep(Space(tiny, {"alpha": Float(0, 1)}, trials=1), runner=None)
    alone: Any = last(cross_validate(tiny, pairs, splits))
    assert records[0].value == alone.val_auc
    assert records[0].facts["test_auc"] == alone.test_auc
    assert [fold["test_auc"] for fold in records[0].facts["folds"]] == [fold.test_auc for fold in alone.folds]


def test_fractions_of_gpus_fill_them(
    ray: Cluster, store: Store, simulate: Any, pairs: Pairs, splits: Sequence[Split]
) -> None:
    """Half a GPU and half a CPU each: eight trials run at once on four of each, or none would end."""
    from cgn_platform.run.site import Site, TrainingSpec
    from cgn_platform.run.tune import run_trials

    def meet(config: Config, pairs: Any, split: Any, device: str, checkpoints: Any) -> Iterator[Any]:
        import os
        import time

        (store.root / f"here-{os.getpid()}").touch()
        deadline = time.monotonic() + 120
        while len(list(store.root.glob("here-*"))) < 8:
            if time.monotonic() > deadline:
                raise TimeoutError("not all eight trials run")
            time.sleep(0.05)
        return (yield from simulate(config, pairs, split, device, checkpoints))

    space = Space(Config(epochs=1), {"alpha": Float(0, 1)}, trials=8, prune=Prune("none"))
    with open_study("g", space, store=store, identity={}) as study:
        site = Site(store, Ledger(store.units), ray, Resources(0.5, 0.5), runner=meet)
        run_trials(study, TrainingSpec.of(pairs, splits, site), site=site)
        assert Counter(record.state for record in study.trials()) == {"complete": 8}


def test_resources_that_no_node_has_are_refused_before_anything_is_written(sweep: Any, store: Store) -> None:
    with pytest.raises(ResourcesError, match="8 GPUs but no node has more than 4 CPUs and 4 GPUs"):
        sweep(Space(Config(), {"alpha": Float(0, 1)}, trials=1), resources=Resources(1, 8))
    assert list(store.root.iterdir()) == []


def test_a_killed_driver_is_resumed_by_the_same_command(store: Store) -> None:
    """It leaves no process, no lock and no folder behind."""
    driver = [sys.executable, str(DRIVER), str(store)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_"))}
    options: dict[str, Any] = {
        "env": {**clean, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'platform'}", "TMPDIR": str(store)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    with subprocess.Popen(driver, **options) as first:
        assert first.stdout is not None
        lines = iter(first.stdout.readline, "")
        assert any("complete" in line for line in lines)  # one trial is complete, others run
        children = psutil.Process(first.pid).children(recursive=True)
        assert len(children) > 2
        first.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=10)
    # Ray's two agents try for a minute to reach the dead head before they end: not waited for here.
    names = [process.name() for process in alive if process.is_running()]
    assert all("Agent" in name for name in names), names
    processes.end_processes(alive)

    second = subprocess.run(driver, **options, check=False, timeout=120)
    assert second.returncode == 0, second.stdout
    records = json.loads(second.stdout.splitlines()[-1])
    states = Counter(record["state"] for record in records)
    assert states["complete"] + states["pruned"] + states["failed"] == 10
    assert 1 <= states["orphan"] <= 4
    assert {r["retry_of"] for r in records} - {None} == {
        r["number"] for r in records if r["state"] == "orphan"
    }
    assert f"{states['orphan']} of a driver that ended are queued again" in second.stdout
    runs = mlflow_runs(store)
    assert len(runs) == len(records) + 1
    status = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "orphan": "KILLED"}
    for record in records:
        run, curve = runs[f"trial {record['number']}"]
        assert run.info.status == status[record["state"]]
        if record["state"] != "orphan":
            assert [step for step, _ in curve] == list(range(record["epochs"]))
    assert not list(store.root.glob("cgn-*"))  # Ray's folder of the killed driver


@pytest.mark.parametrize(
    ("learning_rate", "cause"), [(0.065, "its process ended"), (0.055, "Input/output error")]
)
def test_a_trial_that_machines_failed_is_retried_and_queued_again_by_the_next_run(
    learning_rate: float, cause: str, sweep: Any, store: Store
) -> None:
    space = Space(Config(epochs=2), {"learning_rate": Choice((5e-5, learning_rate))}, trials=2)
    broken = replace(space, first=[{"learning_rate": learning_rate}])
    records, _ = sweep(broken)
    assert [record.state for record in records] == ["complete", "failed"]
    assert cause in records[1].facts["reason"]
    assert len(records[1].facts["lost_workers"]) == 3
    records, output = sweep(broken)
    assert "1 of 2 trials are finished, 1 of a driver that ended" in output
    assert [record.state for record in records] == ["complete", "orphan", "failed"]
    assert records[2].facts["retry_of"] == 1


def test_an_error_of_the_configuration_is_not_retried(sweep: Any) -> None:
    space = Space(
        Config(epochs=2), {"learning_rate": Choice((5e-5, 0.095))}, 2, first=[{"learning_rate": 0.095}]
    )
    records, _ = sweep(space)
    assert [record.state for record in records] == ["complete", "failed"]
    assert "lost_workers" not in records[1].facts
    assert [record.state for record in sweep(space)[0]] == ["complete", "failed"]


def test_a_killed_worker_is_resumed_from_its_checkpoints(sweep: Any, store: Store, simulate: Any) -> None:
    """The study holds each epoch once, though some were reported twice."""

    def dies_once(config: Config, pairs: Any, split: Any, device: str, checkpoints: Any) -> Iterator[Any]:
        import os
        import signal

        state = checkpoints.load()
        (store.root / f"fold-{split.fold}-from-{len(state.facts['reports']) if state else 0}").touch()
        run = simulate(config, pairs, split, device, checkpoints)
        while True:
            try:
                report = next(run)
            except StopIteration as end:
                return end.value
            if report.epoch == 4 and split.fold == 2 and not (store.root / "died").exists():
                (store.root / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield report

    space = Space(Config(epochs=6), {"alpha": Float(0, 1)}, trials=1, prune=Prune("none"))
    records, _ = sweep(space, runner=dies_once, checkpoint_every=2)
    assert records[0].state == "complete"
    assert len(records[0].facts["lost_workers"]) == 1
    assert list(records[0].curve) == list(range(6))
    began = sorted(path.name for path in store.root.glob("fold-*"))
    assert began == sorted(f"fold-{fold}-from-{epochs}" for fold in range(3) for epochs in (0, 4))
    assert [step for step, _ in mlflow_runs(store)["trial 0"][1]] == list(range(6))


@pytest.mark.parametrize("fold_workers", [0, 2])
def test_storage_that_fails_ends_the_sweep_with_the_error_of_the_worker(
    sweep: Any, store: Store, simulate: Any, fold_workers: int
) -> None:
    """Every trial would fail; the next run of the command queues this one again."""

    def breaks_the_ledger(
        config: Config, pairs: Any, split: Any, device: str, checkpoints: Any
    ) -> Iterator[Any]:
        import shutil

        if store.units.is_dir():
            shutil.rmtree(store.units)
            store.units.touch()
        return (yield from simulate(config, pairs, split, device, checkpoints))

    space = Space(Config(epochs=2), {"alpha": Float(0, 1)}, trials=3)
    with pytest.raises(LedgerError, match=r"^unit [0-9a-f]{24} cannot be written to") as raised:
        sweep(space, runner=breaks_the_ledger, fold_workers=fold_workers, concurrent=1)
    assert type(raised.value) is LedgerError
    store.units.unlink()
    records, _ = sweep(space, concurrent=1)
    assert [record.state for record in records].count("complete") == 3
    assert records[0].state == "orphan"
    assert records[0].facts["reason"].startswith("LedgerError: unit ")
    assert len(records[0].facts["lost_workers"]) == 3


def test_listeners_end_even_if_the_study_cannot_be_read(
    ray: Cluster,
    store: Store,
    simulate: Any,
    pairs: Pairs,
    splits: Sequence[Split],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cgn_platform.run import sweep
    from cgn_platform.run.site import Site
    from cgn_platform.search.study import Study

    def full(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(Study, "trials", full)
        raise StudyError("the study's database is full")

    class Follower:
        def __init__(self) -> None:
            self.events: list[Any] = []

        def begin(self, info: Any) -> None:
            self.events.append(("begin", len(info.records)))

        def end(self, outcome: str, records: Sequence[TrialRecord]) -> None:
            self.events.append((outcome, len(records)))

    monkeypatch.setattr(sweep, "run_trials", full)
    followers: list[Any] = [Follower(), Follower()]
    site = Site(store, Ledger(store.units), ray, runner=simulate)
    space = Space(Config(epochs=1), {"alpha": Float(0, 1)}, trials=2)
    with pytest.raises(StudyError, match="is full"):
        sweep.run_sweep(space, pairs, splits, name="f", site=site, listeners=followers)
    assert [follower.events for follower in followers] == [[("begin", 1), ("KILLED", 1)]] * 2


@pytest.mark.parametrize("fold_workers", [0, 2])
def test_a_worker_with_other_code_ends_the_sweep(
    ray: Cluster, store: Store, simulate: Any, pairs: Pairs, splits: Sequence[Split], fold_workers: int
) -> None:
    from cgn_platform.run.site import Site, TrainingSpec
    from cgn_platform.run.tune import run_trials

    space = Space(Config(epochs=1), {"alpha": Float(0, 1)}, trials=2)
    site = Site(store, Ledger(store.units), ray, fold_workers=fold_workers, runner=simulate)
    spec = replace(TrainingSpec.of(pairs, splits, site), code="another")
    with (
        open_study("c", space, store=store, identity={}) as study,
        pytest.raises(ClusterError, match=r"workers must run the driver's code of cgn \(another\)") as raised,
    ):
        run_trials(study, spec, site=site)
    assert raised.value.remedy.startswith("install the same version everywhere")
    assert not store.units.exists()


def test_folds_in_separate_actors_give_the_same_numbers(
    sweep: Any, store: Store, tiny: Config, pairs: Pairs, splits: Sequence[Split]
) -> None:
    """Two actors share three folds; each takes half a GPU."""
    import torch

    from cgn.fit import cross_validate, last

    torch.set_num_threads(1)
    records, _ = sweep(
        Space(tiny, {"alpha": Float(0, 1)}, trials=1),
        runner=None,
        fold_workers=2,
        resources=Resources(1, 0.5),
    )
    alone: Any = last(cross_validate(tiny, pairs, splits))
    assert records[0].value == alone.val_auc
    assert [fold["test_auc"] for fold in records[0].facts["folds"]] == [fold.test_auc for fold in alone.folds]
    assert Ledger(store.units).names() == sorted(records[0].facts["units"])


def test_more_fold_workers_than_the_cluster_has_room_for_are_refused(sweep: Any) -> None:
    with pytest.raises(ResourcesError, match="needs 9 fold workers but the cluster has room for 4"):
        sweep(Space(Config(), {"alpha": Float(0, 1)}, trials=1), fold_workers=9)


def test_equal_units_are_computed_once_across_sweeps(sweep: Any, store: Store, simulate: Any) -> None:
    """The second study finds every epoch in the ledger."""

    def counted(config: Config, pairs: Any, split: Any, device: str, checkpoints: Any) -> Iterator[Any]:
        import uuid

        (store.root / f"trained-{uuid.uuid4()}").touch()
        return (yield from simulate(config, pairs, split, device, checkpoints))

    space = Space(Config(epochs=4), {"alpha": Choice((0.5, 0.7))}, trials=2, first=[{"alpha": 0.7}])
    first, _ = sweep(space, runner=counted)
    second, _ = sweep(space, runner=counted, name="t")
    assert [r.facts["units"] for r in first] == [r.facts["units"] for r in second]
    assert [dict(r.curve) for r in first] == [dict(r.curve) for r in second]
    assert len(list(store.root.glob("trained-*"))) == 6


def test_a_pruned_trial_leaves_no_checkpoint_and_its_epochs_in_the_study(sweep: Any, store: Store) -> None:
    space = Space(
        Config(alpha=1.0, epochs=6),
        {"alpha": Float(0, 1)},
        2,
        first=[{"alpha": 0.1}],
        prune=Prune("median", startup_trials=1, warmup_epochs=3),
    )
    records, _ = sweep(space, concurrent=1, checkpoint_every=1)
    assert [record.state for record in records] == ["complete", "pruned"]
    assert [step["val_auc"] for step in records[1].facts["steps"]] == list(records[1].curve.values())
    assert set(records[1].facts["steps"][0]["folds"]) == {"0", "1", "2"}
    ledger = Ledger(store.units)
    assert ledger.names() == sorted(records[0].facts["units"])
    assert ledger.unfinished() == {}


SPACE_FILE = """
from cgn.config import Config
from cgn_platform.space import Float, Prune, Space

BASE = Config(backbone="tiny", generator_blocks=1, epochs=2, batch_size=4, learning_rate=1e-3)
SPACE = Space(BASE, {"alpha": Float(0, 1)}, trials=2, prune=Prune("none"))
"""


def test_a_unit_that_a_finished_trial_lost_is_computed_again_by_the_same_sweep(tmp_path: Path) -> None:
    """`cgn units --verify` promises it."""
    cache = write_cache(
        "phantom", phantom.Options(pairs=24), Preprocessing(32), SplitPlan(3), caches=Store(tmp_path).caches
    ).path
    (tmp_path / "mine.py").write_text(SPACE_FILE)
    command = [sys.executable, "-m", "cgn_platform.cli", "sweep", str(tmp_path / "mine.py")]
    command += ["--data", str(cache), "--store", str(tmp_path), "--address", "local"]

    def sweep() -> tuple[str, list[dict[str, Any]]]:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        facts = json.loads((tmp_path / "reports" / "mine-phantom" / "facts.json").read_text())
        return done.stdout, facts["rows"]

    _, before = sweep()
    lost = before[-1]["units"][0][1]
    path = tmp_path / "units" / lost / "predictions.parquet"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    output, after = sweep()
    assert "1 training of units that finished trials have lost, 2 epochs" in output
    assert re.search(r"training 1 of 1: trial \d, seed 0, fold 1: finished", output)
    assert Ledger(tmp_path / "units").damage(lost) is None
    assert [row["auc"] for row in after] == [row["auc"] for row in before]
    assert "have lost" not in sweep()[0]


def test_a_unit_of_other_code_is_not_replaced_by_one_of_this_code(
    sweep: Any, ray: Cluster, store: Store, simulate: Any, pairs: Pairs, splits: Sequence[Split]
) -> None:
    from cgn_platform.run.site import Site
    from cgn_platform.run.sweep import recompute_lost_units

    records, _ = sweep(Space(Config(epochs=2), {"alpha": Float(0, 1)}, trials=1))
    units = ["0" * 24, *records[0].facts["units"][1:]]
    other = replace(records[0], facts={**records[0].facts, "units": units})
    site = Site(store, Ledger(store.units), ray, runner=simulate)
    lost = recompute_lost_units([other], pairs, splits, site=site, screen=Untouched())
    assert lost == {"0" * 24: "fold 0 of trial 0 was trained by other code of cgn"}


class Untouched:
    """A screen that nothing is trained in front of."""

    def begin(self, units: int, epochs: int) -> None:
        pytest.fail(f"{units} units, {epochs} epochs")

    def epoch(self) -> None:
        pytest.fail("an epoch")

    def ended(self, unit: str, failure: str) -> None:
        pytest.fail(f"{unit}: {failure}")
