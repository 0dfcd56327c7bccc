"""The layout of a store: every path in it, in one place.

cache/NAME-SIZE-HASH/      prepared pairs
units/ID/                  finished folds and checkpoints, unless --ledger names another place
studies.db                 Optuna's studies
mlflow.db, mlartifacts/    MLflow's runs and files, unless a server is named
outbox/STUDY_ID/           events that MLflow has not received yet
reports/NAME/              facts, declaration and page of a table or sweep
promotions.jsonl           decisions about models
locks/, up.lock            locks: of a study's driver, of decisions about models, of `cgn up`
up.json, logs/             servers of `cgn up`
ray_token, mlflow.env      what they require: Ray's token, MLflow's login
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cgn import files


@dataclass(frozen=True)
class ReportFolder:
    """The files of one table or sweep."""

    folder: Path

    @property
    def facts(self) -> Path:
        """All figures, as JSON."""
        return self.folder / "facts.json"

    @property
    def declaration(self) -> Path:
        """What identifies the table: rows, base, data."""
        return self.folder / "declaration.json"

    @property
    def page(self) -> Path:
        """The HTML file."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class Store(os.PathLike[str]):
    """A store, by its folder. Creating one reads and writes nothing."""

    root: Path

    def __fspath__(self) -> str:
        return str(self.root)

    def __str__(self) -> str:
        return str(self.root)

    def make(self) -> None:
        """Create the folder, for its owner only; one that exists keeps its mode."""
        files.make_private(self.root)

    @property
    def caches(self) -> Path:
        """The folder of caches, unless another one was given."""
        return self.root / "cache"

    @property
    def units(self) -> Path:
        """The ledger, unless another one was given."""
        return self.root / "units"

    @property
    def studies(self) -> Path:
        """Optuna's database, unless another one was given."""
        return self.root / "studies.db"

    @property
    def mlflow_database(self) -> Path:
        """MLflow's database, unless a server was given."""
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        """MLflow's files, unless a server was given."""
        return self.root / "mlartifacts"

    @property
    def locks(self) -> Path:
        """The folder of lock files."""
        return self.root / "locks"

    @property
    def promotions(self) -> Path:
        """The record of decisions about models, one JSON line each."""
        return self.root / "promotions.jsonl"

    @property
    def servers(self) -> Path:
        """The servers that `cgn up` started."""
        return self.root / "up.json"

    @property
    def servers_lock(self) -> Path:
        """Held by `cgn up` and `cgn down`."""
        return self.root / "up.lock"

    @property
    def ray_token(self) -> Path:
        """The token of the Ray that `cgn up` started; readable for its owner only."""
        return self.root / "ray_token"

    @property
    def mlflow_login(self) -> Path:
        """The login of the MLflow that `cgn up` started; readable for its owner only."""
        return self.root / "mlflow.env"

    @property
    def logs(self) -> Path:
        """The logs of the servers that `cgn up` started."""
        return self.root / "logs"

    def outbox(self, study_id: str) -> Path:
        """The folder of a study's outbox."""
        return self.root / "outbox" / files.check_name(study_id, "the id of a study")

    def outboxes(self) -> list[Path]:
        """The folders of all outboxes."""
        return sorted(path for path in (self.root / "outbox").glob("*") if path.is_dir())

    def report(self, name: str) -> ReportFolder:
        """The files of a table or sweep. Raises ConfigError for an invalid name."""
        return ReportFolder(self.root / "reports" / files.check_name(name, "the name of a table or sweep"))

    def reported(self) -> list[str]:
        """Names of the tables and sweeps that have facts."""
        return sorted(path.parent.name for path in self.root.glob("reports/*/facts.json"))

    def cache_with(self, fingerprint: str) -> Path | None:
        """The cache of this fingerprint; None if it is not in this store."""
        for manifest in sorted(self.caches.glob("*/manifest.json")):
            if json.loads(manifest.read_text()).get("fingerprint") == fingerprint:
                return manifest.parent
        return None
