"""A trained table, an empty MLflow database, and a call that promotes a row."""

import json
import runpy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn_platform.registry.gate import Requirements
from cgn_platform.registry.promotion import Decision, promote
from cgn_platform.registry.registry import Registry
from cgn_platform.registry.selection import PromotionRequest
from cgn_platform.report.table_facts import table_facts
from cgn_platform.space import Row, Table
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking import mlflow_client

TRAINED = runpy.run_path(str(Path(__file__).parents[1] / "trained.py"))
BASE = Config(backbone="tiny", generator_blocks=1, epochs=4, batch_size=4, learning_rate=5e-3)
ROWS = (
    Row(("good",), {}),
    Row(("other",), {"alpha": 0.4}),
    Row(("weak",), {"learning_rate": 1e-9, "epochs": 1}),
    Row(("never run",), {"beta": 2.0}),
)
WIDE = Requirements(margin=0.6)  # three folds of eight pairs distinguish little


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "CGN_STUDY_URL", "CGN_STORE", "CGN_LEDGER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "units"


@pytest.fixture(scope="session")
def facts(units: Path, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Of a table with three complete rows."""
    return facts_of(units, pairs, splits)


def facts_of(units: Path, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    table = Table("Three", ("row",), ROWS, BASE, baseline="good")
    untrained = [table.config(ROWS[3])]
    site = TRAINED["make_site"](Store(units.parent), Ledger(units))
    run = TRAINED["train_table"](table, pairs, splits, site.ledger, seeds=1, untrained=untrained)
    facts = table_facts(table, pairs, splits, name="three", run=run, site=site)
    facts["run"]["command"] = "cgn table three.py"
    stored: dict[str, Any] = json.loads(json.dumps(facts))
    return stored


@pytest.fixture(scope="session")
def train_facts() -> Callable[..., dict[str, Any]]:
    """`train_facts(units, pairs, splits)`: facts of the table on other data."""
    return facts_of


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Store:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Store(tmp_path)


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(mlflow_client.default_uri(store), "cgn", store.mlflow_artifacts)


@pytest.fixture
def client(registry: Registry) -> Any:
    """MLflow's own client of the same database."""
    return mlflow_client.connect(registry.uri)[1]


@dataclass
class Promoter:
    """Promotes rows of the table."""

    facts: dict[str, Any]
    pairs: Pairs
    store: Store
    registry: Registry
    ledger: Ledger

    def __call__(
        self,
        row: str | None,
        requirements: Requirements = WIDE,
        *,
        alias: str = "champion",
        seed: int = 0,
        facts: dict[str, Any] | None = None,
        pairs: Pairs | None = None,
        ledger: Ledger | None = None,
    ) -> Decision:
        request = PromotionRequest(row, seed, alias, "ada", "a test", requirements)
        return promote(
            facts or self.facts,
            pairs or self.pairs,
            request,
            store=self.store,
            registry=self.registry,
            ledger=ledger or self.ledger,
        )

    def aliases(self) -> dict[str, str]:
        """The version of each alias."""
        return {alias: version.number for version in self.registry.versions() for alias in version.aliases}


@pytest.fixture
def promoter(store: Store, registry: Registry, units: Path, facts: dict[str, Any], pairs: Pairs) -> Promoter:
    return Promoter(facts, pairs, store, registry, Ledger(units))
