"""A table: every row on the same folds and seeds, each fold a unit of its own, told with intervals.

Units that the ledger has cost nothing; the others are trained by as many actors as fit. A row counts
when all its units are there; one that misses a unit is incomplete and has no mean.
"""

import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray

from cgn import files
from cgn.config import Config
from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn.provenance import code_version
from cgn.results import FoldResult
from cgn_platform import out_of_fold
from cgn_platform.cluster import Cluster, Resources
from cgn_platform.ledger import Ledger, Unit, shown
from cgn_platform.preflight import preflight
from cgn_platform.space import Row, Table
from cgn_platform.worker import INFRASTRUCTURE, FoldActor, Runner, Work

RETRIES = 3  # of a unit whose worker was lost
Told = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A unit to train: a fold of a row under one seed, for all rows that are the same configuration."""

    id: str
    config: Config
    number: int  # of the split
    attempt: int = 0


@dataclass(frozen=True)
class Plan:
    """What a table asks for: unit ids by row, seed and fold, and those of them that are missing."""

    units: tuple[tuple[tuple[str, ...], ...], ...]
    missing: tuple[Job, ...]


def run_table(
    table: Table,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    name: str,
    seeds: int,
    store: Path,
    cluster: Cluster,
    resources: Resources,
    ledger: str,
    checkpoint_every: int = 5,
    concurrent: int | None = None,
    runner: Runner | None = None,
    screen: "Screen",
) -> dict[str, Any]:
    """Train what is missing and give the table's facts, which are written to `reports/NAME/facts.json`.

    Raises:
        ResourcesError, ClusterError: what would fail is refused before anything is trained.
        ConfigError: another table stands under this name.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds must be at least 1 but got {seeds}")
    work = Work(pairs, tuple(splits), resources, ledger, checkpoint_every, runner)
    units = Ledger(ledger)
    folder = _own_folder(store, name, table, work)
    begin = time.monotonic()
    plan = make_plan(table, work, seeds, units)
    failed: dict[str, str] = {}
    if plan.missing:
        slots = min(cluster.slots(resources), concurrent or sys.maxsize, len(plan.missing))
        preflight(cluster, resources=resources, store=store, ledger=ledger)
        failed = _train(plan.missing, work, slots, screen)
    facts = table_facts(table, pairs, splits, plan, units, failed)
    run = _run_facts(work, seeds, facts["rows"], begin) | {"mode": "retuned" if table.tuned else "frozen"}
    facts |= {"kind": "table", "name": name, "run": run}
    files.write(folder / "facts.json", json.dumps(facts, indent=1) + "\n")
    return facts


class Screen(Protocol):
    """Who is told how training goes."""

    def begin(self, units: int, epochs: int) -> None:
        """So many are to be trained."""

    def epoch(self) -> None:
        """One more epoch of some unit."""

    def ended(self, unit: str, told: str) -> None:
        """A unit is finished, or why it is not."""


def make_plan(table: Table, work: Work, seeds: int, ledger: Ledger) -> Plan:
    """Every unit of the table by its id; equal configurations share theirs."""
    missing: dict[str, Job] = {}
    checked: dict[str, bool] = {}

    def unit(row: Row, seed: int, number: int) -> str:
        config = table.config(row, seed)
        name = work.identity(config, work.splits[number]).id
        if name not in checked:
            checked[name] = ledger.find(name) is not None
            if not checked[name]:
                missing[name] = Job(name, config, number)
        return name

    folds = range(len(work.splits))
    units = tuple(
        tuple(tuple(unit(row, seed, number) for number in folds) for seed in range(seeds))
        for row in table.rows
    )
    return Plan(units, tuple(missing.values()))


def _train(jobs: Sequence[Job], work: Work, slots: int, screen: Screen) -> dict[str, str]:
    """Train the jobs on so many actors; those that could not be, with the reason."""
    queue, failed = deque(jobs), dict[str, str]()
    shared = ray.put(work)
    screen.begin(len(jobs), sum(job.config.epochs for job in jobs))
    running: dict[Any, tuple[Any, Job]] = {}

    def actor() -> Any:
        resources = work.resources
        return ray.remote(FoldActor).options(num_cpus=resources.cpus, num_gpus=resources.gpus).remote(shared)

    def give(worker: Any) -> None:
        """The next job, if there is one; an actor without any is let go."""
        if not queue:
            ray.kill(worker)
            return
        job = queue.popleft()
        worker.begin.remote(job.config, job.number)
        running[worker.advance.remote(job.number)] = (worker, job)

    try:
        for _ in range(slots):
            give(actor())
        while running:
            ready, _ = ray.wait(list(running), timeout=1)
            for reference in ready:
                worker, job = running.pop(reference)
                try:
                    told = ray.get(reference)
                except ray.exceptions.RayError as error:
                    again, worker = _what_failed(error, job, failed, screen, worker)
                    if again is not None:
                        queue.append(again)
                    give(worker or actor())
                    continue
                if isinstance(told, FoldResult):
                    screen.ended(job.id, "")
                    give(worker)
                else:
                    screen.epoch()
                    running[worker.advance.remote(job.number)] = (worker, job)
    finally:
        for worker, _ in running.values():
            ray.kill(worker)
    return failed


def _what_failed(
    error: Any, job: Job, failed: dict[str, str], screen: Screen, worker: Any
) -> tuple[Job | None, Any]:
    """The job to try again, if a machine is to blame; and its actor, if that still lives."""
    own = isinstance(error, ray.exceptions.RayTaskError)
    cause = error.cause if own else error
    told = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    if isinstance(cause, INFRASTRUCTURE) and job.attempt < RETRIES:
        return replace(job, attempt=job.attempt + 1), worker if own else None
    failed[job.id] = told
    screen.ended(job.id, told)
    return None, worker if own else None


# -------------------------------------------------------------------------------------------- facts


def table_facts(
    table: Table,
    pairs: Pairs,
    splits: Sequence[Split],
    plan: Plan,
    ledger: Ledger,
    failed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """All that is told of a table, as plain JSON: read from the ledger, nothing else.

    Rows without all of their units have `complete` false and no figures.
    """
    ids = {name for row in plan.units for seed in row for name in seed}
    units = {name: unit for name in ids if (unit := ledger.find(name)) is not None}
    rows = [
        _row_facts(table, row, names, units, failed or {})
        for row, names in zip(table.rows, plan.units, strict=True)
    ]
    joined = {
        row["name"]: out_of_fold.join([[units[name] for name in seed] for seed in row["units"]])
        for row in rows
        if row["complete"]
    }
    compared = out_of_fold.compare(joined, table.baseline)
    if compared is not None:
        by_name = {row["name"]: row for row in rows}
        for row in compared.rows:
            by_name[row.name] |= row.plain()
    return {
        "title": table.title,
        "description": table.description,
        "header": list(table.header),
        "baseline": table.baseline,
        "data": data_facts(pairs, splits),
        "detectable": compared and compared.detectable,
        "rows": rows,
    }


def _row_facts(
    table: Table,
    row: Row,
    names: Sequence[Sequence[str]],
    units: Mapping[str, Unit],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    absent = [name for seed in names for name in seed if name not in units]
    facts: dict[str, Any] = {
        "name": row.name,
        "cells": list(row.cells),
        "published": dict(row.published),
        "complete": not absent,
        "why": None,
        "config": table.config(row).model_dump(mode="json"),
        "units": [list(seed) for seed in names],
        "tuned": asdict(row.tuned) if row.tuned else None,
    }
    if absent:
        count = sum(len(seed) for seed in names)
        reason = next((failed[name] for name in absent if name in failed), "not trained yet")
        return facts | {"why": f"{len(absent)} of {count} units are missing: {reason}"}
    results = [[units[name].facts["result"] for name in seed] for seed in names]
    return facts | {
        "seconds": math.fsum(unit["seconds"] for seed in results for unit in seed),
        "fold_auc": [[unit["test_auc"] for unit in seed] for seed in results],
        "val_auc": [[unit["val_auc"] for unit in seed] for seed in results],
    }


def data_facts(pairs: Pairs, splits: Sequence[Split]) -> dict[str, Any]:
    """What a table or sweep ran on."""
    return {
        "name": pairs.name,
        "cache": pairs.fingerprint,
        "splits": splits_fingerprint(pairs.pair_id, splits),
        "pairs": len(pairs),
        "patients": len(set(pairs.patient_id.tolist())),
        "malignant": int(pairs.label.sum()),
        "folds": len(splits),
        "size": pairs.size,
    }


def _run_facts(work: Work, seeds: int, rows: Sequence[Mapping[str, Any]], begin: float) -> dict[str, Any]:
    searches = {row["tuned"]["study"]: row["tuned"]["seconds"] for row in rows if row["tuned"]}
    hours = (sum(row.get("seconds", 0) for row in rows) + sum(searches.values())) / 3600
    return {
        "command": " ".join(["cgn", *sys.argv[1:]]),
        "cpu_hours": hours * work.resources.cpus,
        "gpu_hours": hours * work.resources.gpus,
        "code": work.code,
        "git_commit": code_version(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seeds": list(range(seeds)),
        "resources": asdict(work.resources),
        "ledger": shown(work.ledger),
        "wall_seconds": round(time.monotonic() - begin, 1),
    }


def _own_folder(store: Path, name: str, table: Table, work: Work) -> Path:
    """`reports/NAME`, which belongs to this table on these data."""
    folder = store / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    declared = {"table": table.declaration(), "data": data_facts(work.pairs, work.splits)}
    path = folder / "declaration.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(declared)):
        raise ConfigError(
            f"under the name {name!r} stands another table or other data: choose another --name"
        )
    files.write(path, json.dumps(declared, indent=1) + "\n")
    return folder
