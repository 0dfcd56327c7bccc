"""Units, tables and trial records that tests make by real training; loaded by path."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.fit import fit
from cgn_platform.cluster.resources import Cluster
from cgn_platform.run.folds import read_or_train
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.run.table import TableRun, make_plan
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import Table
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger, Unit


def make_site(store: Store, ledger: Ledger) -> Site:
    """A site without a cluster, for facts."""
    return Site(store, ledger, Cluster("", ()))


def train_unit(config: Config, number: int, pairs: Pairs, splits: Sequence[Split], ledger: Ledger) -> Unit:
    """One fold, trained in this process or read from the ledger."""
    spec = TrainingSpec(pairs, tuple(splits), ledger)
    identity = spec.identity(config, splits[number])
    run = read_or_train(
        ledger, identity, pairs, lambda checkpoints: fit(config, pairs, splits[number], "cpu", checkpoints)
    )
    for _ in run:
        pass
    return ledger.open(identity.id)


def train_table(
    table: Table,
    pairs: Pairs,
    splits: Sequence[Split],
    ledger: Ledger,
    *,
    seeds: int,
    untrained: Collection[Config] = (),
) -> TableRun:
    """The units of a table, but for these configurations of seed 0."""
    spec = TrainingSpec(pairs, tuple(splits), ledger)
    for job in make_plan(table, spec, seeds).missing:
        if job.config.edit(seed=0) not in untrained:
            train_unit(job.config, job.number, pairs, splits, ledger)
    return make_plan(table, spec, seeds)


def complete_trial(
    number: int, config: Config, params: Mapping[str, Any], units: Sequence[Unit]
) -> TrialRecord:
    """The record of a complete trial with these units, one for each fold."""
    results = [unit.facts["result"] for unit in units]
    folds = [{name: result[name] for name in ("test_auc", "val_auc", "seconds")} for result in results]
    curve = np.mean([[report.val_auc for report in unit.reports] for unit in units], axis=0).tolist()
    facts = {"folds": folds, "units": [unit.id for unit in units], "seconds": 2.0, "test_auc": 0.5}
    value = float(np.mean([fold["val_auc"] for fold in folds]))
    return TrialRecord(number, "complete", value, dict(params), dict(enumerate(curve)), config, facts)
