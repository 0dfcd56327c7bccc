"""A table: all rows on the same folds and seeds; every fold is a unit.

Units that are in the ledger are not trained again; the others are trained by as many actors as fit.
`report.table_facts` computes the figures.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn_platform.cluster.preflight import preflight
from cgn_platform.run.jobs import Job, Screen, Training
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.space import Row, Table


@dataclass(frozen=True)
class TableRun:
    """The units of a table, and what happened when the missing ones were trained.

    Attributes:
        units: unit ids by row, seed and fold.
        missing: the units that were not in the ledger.
        failed: why a unit could not be trained, by unit id.
        wall_seconds: duration of the run.
    """

    units: tuple[tuple[tuple[str, ...], ...], ...]
    missing: tuple[Job, ...]
    failed: dict[str, str] = field(default_factory=dict)
    wall_seconds: float = 0.0

    @property
    def seeds(self) -> range:
        """Seeds of every row."""
        return range(len(self.units[0]))


def run_table(
    table: Table,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    seeds: int,
    site: Site,
    screen: Screen,
) -> TableRun:
    """Train the units that are not in the ledger.

    Args:
        table: its rows.
        pairs, splits: the data.
        seeds: number of seeds; every row is trained with the seeds from 0 on.
        site: where it runs.
        screen: shows the progress.

    Raises:
        ConfigError: fewer than one seed, or the ledger cannot be written.
        ResourcesError: no node has room for a fold, or a disk is full.
        ClusterError: a node does not answer, runs other code, or does not share the ledger.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1 but got {seeds}")
    begin = time.monotonic()
    spec = TrainingSpec.of(pairs, splits, site)
    plan = make_plan(table, spec, seeds)
    failed: dict[str, str] = {}
    if plan.missing:
        slots = min(site.slots(), len(plan.missing))
        preflight(site.cluster, resources=site.resources, store=site.store.root, ledger=site.ledger.place)
        failed = Training(spec, screen).run(plan.missing, slots)
    return replace(plan, failed=failed, wall_seconds=round(time.monotonic() - begin, 1))


def make_plan(table: Table, spec: TrainingSpec, seeds: int) -> TableRun:
    """The ids of all units of a table, and the jobs for those that are not in the ledger."""
    missing: dict[str, Job] = {}
    checked: set[str] = set()

    def unit(row: Row, seed: int, number: int) -> str:
        config = table.config(row, seed)
        unit_id = spec.identity(config, spec.splits[number]).id
        if unit_id not in checked:
            checked.add(unit_id)
            if spec.ledger.find(unit_id) is None:
                missing[unit_id] = Job(unit_id, config, number, row.name)
        return unit_id

    folds = range(len(spec.splits))
    units = tuple(
        tuple(tuple(unit(row, seed, number) for number in folds) for seed in range(seeds))
        for row in table.rows
    )
    return TableRun(units, tuple(missing.values()))
