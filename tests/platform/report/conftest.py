"""Facts of a small table and of a small sweep, with their units."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn_platform.report import sweep_facts
from cgn_platform.report.facts import read_facts, write_facts
from cgn_platform.report.page import render
from cgn_platform.report.table_facts import table_facts
from cgn_platform.run.site import Site
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import Float, Row, Space, Table
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

TRAINED = runpy.run_path(str(Path(__file__).parents[1] / "trained.py"))

BASE = Config(backbone="tiny", generator_blocks=1, epochs=3, batch_size=4, learning_rate=3e-3)
ROWS = (
    Row(("SBF", "×"), {"bilateral": "sbf", "triplet": "none", "negative_embedding": False}, {"a": 0.862}),
    Row(("never run", "×"), {"bilateral": "bf_gan"}, {"a": 0.86}),
    Row(("AdaIN-GAN", "✓"), {}, {"a": 0.91}),
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    store = Store(tmp_path_factory.mktemp("store"))
    made: Site = TRAINED["make_site"](store, Ledger(store.units))
    return made


@pytest.fixture(scope="session")
def store(site: Site) -> Store:
    return site.store


@pytest.fixture(scope="session")
def ledger(site: Site) -> Ledger:
    return site.ledger


@pytest.fixture(scope="session")
def table(site: Site, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    """A table with two complete rows, two seeds each, and one that was never run."""
    declared = Table(
        "Table III", ("Bilateral", "L_NE"), ROWS, BASE, description="What each part adds.\n\nMore."
    )
    untrained = [declared.config(ROWS[1])]
    run = TRAINED["train_table"](declared, pairs, splits, site.ledger, seeds=2, untrained=untrained)
    facts = table_facts(declared, pairs, splits, name="three", run=run, site=site)
    facts["run"]["command"] = "cgn table <three>"
    return stored(site.store, facts)


@pytest.fixture(scope="session")
def base() -> Config:
    """The default of the sweep, which learns too slowly to be chosen."""
    return BASE.edit(learning_rate=1e-6)


@pytest.fixture(scope="session")
def sweep(base: Config, site: Site, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    """A sweep with three complete trials, one pruned and one failed."""
    dimensions = {"alpha": Float(0, 1), "learning_rate": Float(1e-6, 1e-2, log=True)}
    records = []
    for number, (alpha, rate) in enumerate([(0.5, 1e-6), (0.1, 1e-3), (0.9, 5e-3)]):
        params = {"alpha": alpha, "learning_rate": rate}
        config = base.edit(**params)
        units = [TRAINED["train_unit"](config, fold, pairs, splits, site.ledger) for fold in range(3)]
        records.append(TRAINED["complete_trial"](number, config, params, units))
    records.append(TrialRecord(3, "pruned", None, {"alpha": 0.2, "learning_rate": 1e-5}, {0: 0.4, 1: 0.45}))
    records.append(TrialRecord(4, "failed", None, {}, {}, facts={"reason": "DivergedError: <nan>"}))
    space = Space(base, dimensions, trials=5, description="Flat?")
    with pytest.MonkeyPatch.context() as patch:  # no study was opened, whose trials could be read
        shares = {"alpha": 0.75, "learning_rate": 0.25}
        patch.setattr(sweep_facts, "importances", lambda _name, _store: shares)
        facts = sweep_facts.sweep_facts(space, pairs, splits, name="flat", records=records, site=site)
    return stored(site.store, facts)


def stored(store: Store, facts: dict[str, Any]) -> dict[str, Any]:
    """As a reader of the file gets them."""
    write_facts(store, facts)
    return read_facts(store, facts["name"])


@pytest.fixture(params=["table", "sweep"])
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def page(facts: dict[str, Any], ledger: Ledger, pairs: Pairs) -> str:
    return render(facts, ledger, pairs)


@pytest.fixture(scope="session")
def spec() -> Any:
    """`spec(page, id)`: what Plotly draws, as the page holds it."""
    return spec_of


def spec_of(page: str, chart: str) -> Any:
    opening = f'<script type="application/json" id="{chart}-spec">'
    assert opening in page, chart
    return json.loads(page.partition(opening)[2].partition("</script>")[0])


@pytest.fixture(scope="session")
def trace() -> Any:
    """`trace(spec, name)`: a trace of a chart."""
    return lambda drawn, name: next(trace for trace in drawn["data"] if trace.get("name") == name)
