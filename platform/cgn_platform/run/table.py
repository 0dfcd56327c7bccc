"""A table: all rows on the same folds and seeds; every fold is a unit.

Units that are in the ledger are not trained again; the others are trained by as many actors as fit.
`report.table_facts` computes the figures.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import ray

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, one_line
from cgn.results import FoldResult
from cgn_platform.cluster.preflight import preflight
from cgn_platform.run.site import Site, TrainingSpec
from cgn_platform.run.worker import INFRASTRUCTURE, FoldActor
from cgn_platform.space import Row, Table

RETRIES = 3  # of a unit whose worker was lost


@dataclass(frozen=True)
class Job:
    """A unit to train: a fold of a configuration. Rows with equal configurations share it.

    Attributes:
        id: the unit's id.
        config: the configuration.
        number: the number of the split.
        attempt: how often the job was retried.
    """

    id: str
    config: Config
    number: int
    attempt: int = 0


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


class Screen(Protocol):
    """Shows the progress of a table."""

    def begin(self, units: int, epochs: int) -> None:
        """Training starts; this many units and epochs are missing."""

    def epoch(self) -> None:
        """An epoch of some unit is finished."""

    def ended(self, unit: str, failure: str) -> None:
        """A unit is finished, or has failed for this reason."""


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
        failed = _Training(spec, screen).run(plan.missing, slots)
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
                missing[unit_id] = Job(unit_id, config, number)
        return unit_id

    folds = range(len(spec.splits))
    units = tuple(
        tuple(tuple(unit(row, seed, number) for number in folds) for seed in range(seeds))
        for row in table.rows
    )
    return TableRun(units, tuple(missing.values()))


class _Training:
    """Trains jobs on actors. An actor has one job at a time, and trains one epoch per call."""

    def __init__(self, spec: TrainingSpec, screen: Screen) -> None:
        self._resources, self._shared, self._screen = spec.resources, ray.put(spec), screen
        self._queue: deque[Job] = deque()
        self._running: dict[Any, tuple[Any, Job]] = {}  # actor and job by pending call
        self._failed: dict[str, str] = {}

    def run(self, jobs: Sequence[Job], slots: int) -> dict[str, str]:
        """Train the jobs on this many actors. Returns why units failed, by unit id."""
        self._queue = deque(jobs)
        self._screen.begin(len(jobs), sum(job.config.epochs for job in jobs))
        try:
            for _ in range(slots):
                self._assign(self._actor())
            while self._running:
                ready, _ = ray.wait(list(self._running), timeout=1)
                for reference in ready:
                    self._answer(reference)
        finally:
            for actor, _ in self._running.values():
                ray.kill(actor)
        return self._failed

    def _actor(self) -> Any:
        resources = self._resources
        options = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        return ray.remote(FoldActor).options(**options).remote(self._shared)

    def _assign(self, actor: Any) -> None:
        """Give an actor the next job, or end the actor if there is none."""
        if not self._queue:
            ray.kill(actor)
            return
        job = self._queue.popleft()
        actor.begin.remote(job.config, job.number)
        self._advance(actor, job)

    def _advance(self, actor: Any, job: Job) -> None:
        self._running[actor.advance.remote(job.number)] = (actor, job)

    def _answer(self, reference: Any) -> None:
        """Handle a finished call: the next epoch, the next job, or an error."""
        actor, job = self._running.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayError as error:
            alive = isinstance(error, ray.exceptions.RayTaskError)
            self._error(job, error.cause if alive else error)
            self._assign(actor if alive else self._actor())
            return
        if isinstance(answer, FoldResult):
            self._screen.ended(job.id, "")
            self._assign(actor)
        else:
            self._screen.epoch()
            self._advance(actor, job)

    def _error(self, job: Job, cause: BaseException) -> None:
        """Queue the job again after an infrastructure error, at most `RETRIES` times; else it failed."""
        if isinstance(cause, INFRASTRUCTURE) and job.attempt < RETRIES:
            self._queue.append(replace(job, attempt=job.attempt + 1))
            return
        self._failed[job.id] = f"{type(cause).__name__}: {one_line(cause)}"
        self._screen.ended(job.id, self._failed[job.id])
