"""Tables on real Ray, with the simulated trainer and with the real one."""

import io
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from cgn import metrics
from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn_platform.cluster.resources import Cluster
from cgn_platform.console.tables import table_of
from cgn_platform.report.facts import read_facts
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import Row, Space, Table
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

pytestmark = pytest.mark.integration

ROWS = (
    Row(("weak",), {"alpha": 0.2}, {"a": 0.6}),
    Row(("same as the best",), {"alpha": 0.9}, {"a": 0.7}),
    Row(("best",), {"alpha": 0.9}, {"a": 0.8}),
)


class Screen:
    """Records what it is shown."""

    def __init__(self) -> None:
        self.units, self.endings, self.jobs = 0, list[str](), list[tuple[str, int]]()

    def begin(self, units: int, epochs: int) -> None:
        self.units += units

    def epoch(self) -> None:
        pass

    def ended(self, job: str, epochs: int, failure: str) -> None:
        self.endings.append(failure)
        self.jobs.append((job, epochs))


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(ray: Cluster, store: Store, simulate: Any, pairs: Pairs, splits: Sequence[Split]) -> Run:
    """Declares and runs a table as `cgn table` does; returns its facts."""

    def table(
        declared: Table, seeds: int = 1, screen: Screen | None = None, runner: Any = simulate
    ) -> dict[str, Any]:
        from cgn_platform.report.facts import declare, write_facts
        from cgn_platform.report.table_facts import table_facts
        from cgn_platform.run.site import Site
        from cgn_platform.run.table import run_table

        site = Site(store, Ledger(store.units), ray, runner=runner)
        declare(store, "t", declared, pairs, splits)
        result = run_table(declared, pairs, splits, seeds=seeds, site=site, screen=screen or Screen())
        facts = table_facts(declared, pairs, splits, name="t", run=result, site=site)
        write_facts(store, facts)
        return facts

    return table


def declared(**base: Any) -> Table:
    return Table("Mine", ("row",), ROWS, Config(epochs=2, beta=1.0).edit(**base))


def test_equal_rows_share_units_and_finished_units_are_not_trained_again(run: Run, store: Store) -> None:
    screen = Screen()
    facts = run(declared(), seeds=2, screen=screen)
    assert screen.units == 2 * 3 * 2  # two distinct rows, three folds, two seeds
    assert sorted(screen.jobs) == sorted(
        (f"{row}, seed {seed}, fold {fold}", 2)
        for row, seed, fold in itertools.product(("weak", "same as the best"), range(2), range(3))
    )
    assert [row["complete"] for row in facts["rows"]] == [True] * 3
    assert facts["rows"][1]["units"] == facts["rows"][2]["units"]
    assert len(Ledger(store.units).names()) == 12
    assert read_facts(store, "t") == json.loads(json.dumps(facts))
    again = Screen()
    more = run(declared(), seeds=3, screen=again)
    assert again.units == 2 * 3
    assert more["rows"][0]["fold_auc"][:2] == facts["rows"][0]["fold_auc"]


def test_the_figures_are_computed_from_the_units_of_the_real_network(
    run: Run, store: Store, tiny: Config, splits: Sequence[Split]
) -> None:
    rows = (
        Row(("sbf",), {"bilateral": "sbf", "negative_embedding": False, "triplet": "none"}),
        Row(("cgn",), {}),
    )
    facts = run(Table("Mine", ("row",), rows, tiny), runner=None, seeds=2)
    ledger = Ledger(store.units)
    for row in facts["rows"]:
        means = []
        for seed, names in enumerate(row["units"]):
            for fold, name in enumerate(names):
                unit = ledger.open(name)
                assert unit.identity.config["seed"] == seed
                predictions = unit.predictions
                assert sorted(predictions["index"].to_pylist()) == sorted(splits[fold].test.tolist())
                auc = metrics.auc(predictions["label"].to_pylist(), predictions["p_malignant"].to_pylist())
                assert row["fold_auc"][seed][fold] == pytest.approx(auc)
                means.append(auc)
        assert row["auc"]["estimate"] == pytest.approx(np.mean(means))
        assert row["auc"]["low"] <= row["auc"]["estimate"] <= row["auc"]["high"]
    sbf, cgn = facts["rows"]
    assert cgn["difference"] is None
    assert sbf["difference"]["estimate"] == pytest.approx(sbf["auc"]["estimate"] - cgn["auc"]["estimate"])
    assert facts["detectable"] >= 0


def test_a_row_that_lacks_a_unit_has_no_mean_and_says_why(run: Run, store: Store) -> None:
    """Its other folds are kept; infrastructure errors were retried first."""
    rows = (*ROWS, Row(("broken",), {"learning_rate": 0.095}), Row(("lost",), {"learning_rate": 0.055}))
    facts = run(Table("Mine", ("row",), rows, Config(epochs=2, beta=1.0), baseline="best"))
    by_name = {row["name"]: row for row in facts["rows"]}
    assert by_name["broken"]["why"] == (
        "3 of 3 units are missing: DivergedError: l_cls must stay finite but is nan"
    )
    assert "Input/output error" in by_name["lost"]["why"]
    assert "auc" not in by_name["broken"]
    assert by_name["weak"]["complete"]
    assert by_name["weak"]["words"]
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    Console(file=out, width=160).print(table_of(facts))
    assert "INCOMPLETE" in out.getvalue()
    assert "as published, on other data" in out.getvalue()


def test_a_killed_worker_costs_no_finished_unit(run: Run, store: Store, simulate: Any) -> None:
    def dies_once(config: Any, pairs: Any, split: Any, device: str, checkpoints: Any) -> Iterator[Any]:
        import os
        import signal

        died = store.root / "died"
        if split.fold == 1 and config.alpha == 0.9 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (yield from simulate(config, pairs, split, device, checkpoints))

    screen = Screen()
    facts = run(declared(), runner=dies_once, screen=screen)
    assert (store.root / "died").exists()
    assert all(row["complete"] for row in facts["rows"])
    assert screen.endings == [""] * 6


def test_another_table_under_the_same_name_is_refused(run: Run) -> None:
    run(declared())
    with pytest.raises(ConfigError, match="the name 't' belongs to another table"):
        run(declared(epochs=3))


def test_a_retuned_table_trains_what_its_searches_chose(
    run: Run, ray: Cluster, store: Store, simulate: Any, pairs: Pairs, splits: Sequence[Split]
) -> None:
    """The searches' units are the table's first seed. The same call gives the same table again."""
    from cgn_platform.run.retune import retune
    from cgn_platform.run.site import Site
    from cgn_platform.run.sweep import run_sweep

    plain = Table("T", ("row",), (Row(("a",), {"beta": 2.0}), Row(("b",), {"beta": 3.0})), Config(epochs=2))
    site = Site(store, Ledger(store.units), ray, runner=simulate)

    def search(name: str, space: Space) -> list[TrialRecord]:
        return run_sweep(space, pairs, splits, name=name, site=site)

    def tuned() -> Table:
        return retune(plain, "t", 3, search)

    screen = Screen()
    facts = run(tuned(), screen=screen)
    assert screen.units == 0
    assert facts["run"]["mode"] == "retuned"
    for row in facts["rows"]:
        assert row["complete"]
        assert row["tuned"]["trials"] == 3
        assert row["config"]["alpha"] == row["tuned"]["params"]["alpha"]
    assert "each row was tuned by a search of 3 trials" in str(table_of(facts).caption)
    again = run(tuned())
    assert [row["units"] for row in again["rows"]] == [row["units"] for row in facts["rows"]]
    with pytest.raises(ConfigError, match="another table"):
        run(plain)


TABLE_FILE = """
from cgn.config import Config
from cgn_platform.report.facts import read_facts
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import Row, Space, Table

BASE = Config(backbone="tiny", generator_blocks=1, epochs=2, batch_size=4, learning_rate=1e-3)
TABLE = Table("Mine", ("row",), tuple(Row((str(a),), {"alpha": a}) for a in (0.2, 0.5, 0.8)), BASE)
"""


def test_a_killed_table_is_resumed_by_the_same_command(tmp_path: Path) -> None:
    """The driver is killed once a unit is finished: finished units are unchanged, the others are trained."""
    cache = write_cache(
        "phantom", phantom.Options(pairs=24), Preprocessing(32), SplitPlan(3), caches=Store(tmp_path).caches
    ).path
    (tmp_path / "mine.py").write_text(TABLE_FILE)
    command = [sys.executable, "-m", "cgn_platform.cli", "table", str(tmp_path / "mine.py")]
    command += ["--data", str(cache), "--store", str(tmp_path), "--address", "local", "--concurrent", "1"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert driver.stdout is not None
        assert any("finished" in line for line in driver.stdout)
    finally:
        driver.kill()
        driver.communicate()
    ledger = Ledger(str(tmp_path / "units"))
    finished = {name: (tmp_path / "units" / name / "unit.json").read_bytes() for name in ledger.names()}
    assert 0 < len(finished) < 9
    again = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith("mine-phantom: 3 rows, 1 seed, on phantom: 24 pairs of ")
    assert f"{9 - len(finished)} training" in again.stderr
    assert "fold 2: finished" in again.stderr
    page = ["cgn", "report", "mine-phantom", "--data", str(cache), "--store", str(tmp_path)]
    assert again.stderr.splitlines()[-1] == f"next, the page of results: {shlex.join(page)}"
    frame = pandas.read_csv(io.StringIO(again.stdout), sep="\t", comment="#")  # nothing else is in the pipe
    assert list(frame["row"]) == [0.2, 0.5, 0.8]
    for name, content in finished.items():
        assert (tmp_path / "units" / name / "unit.json").read_bytes() == content
    facts = json.loads((tmp_path / "reports" / "mine-phantom" / "facts.json").read_text())
    assert [row["complete"] for row in facts["rows"]] == [True] * 3
