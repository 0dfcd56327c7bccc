"""The facts of a table, from the units in the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cgn.data.pairs import Pairs, Split
from cgn_platform.report.facts import data_facts, run_facts
from cgn_platform.report.row_measurements import row_measurements
from cgn_platform.run.site import Site
from cgn_platform.run.table import TableRun
from cgn_platform.space import Row, Table
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger, Unit


def table_facts(
    table: Table, pairs: Pairs, splits: Sequence[Split], *, name: str, run: TableRun, site: Site
) -> dict[str, Any]:
    """All figures of a table as plain JSON. The keys are part of the stored format.

    Rows with a missing or damaged unit have `complete` false and no figures; the others keep theirs.

    Args:
        table: its rows and baseline.
        pairs, splits: the data it ran on.
        name: of the table in the store.
        run: its units, and what went wrong.
        site: where it ran.
    """
    facts = measured_rows(table, pairs, splits, run, site.ledger)
    searches = {row["tuned"]["study"]: row["tuned"]["seconds"] for row in facts["rows"] if row["tuned"]}
    seconds = [row.get(name, 0.0) for row in facts["rows"] for name in ("seconds", "before_seconds")]
    seconds += searches.values()
    return facts | {
        "kind": "table",
        "name": name,
        "run": run_facts(site, run.seeds, seconds)
        | {"wall_seconds": run.wall_seconds, "mode": "retuned" if table.tuned else "frozen"},
    }


def measured_rows(
    table: Table, pairs: Pairs, splits: Sequence[Split], run: TableRun, ledger: Ledger
) -> dict[str, Any]:
    """The facts that follow from the units alone: rows, and how they compare with the baseline."""
    ids = {unit_id for row in run.units for seed in row for unit_id in seed}
    units = {unit_id: unit for unit_id in ids if (unit := ledger.find(unit_id)) is not None}
    rows = [
        _row_facts(table, row, row_ids, units, run.failed)
        for row, row_ids in zip(table.rows, run.units, strict=True)
    ]
    for declared, row in zip(table.rows, rows, strict=True):
        if row["complete"]:
            own = [[units[unit_id] for unit_id in seed] for seed in row["units"]]
            row |= row_measurements(own, table.config(declared), pairs.size)
    joined = {
        row["name"]: out_of_fold.join([[units[unit_id] for unit_id in seed] for seed in row["units"]])
        for row in rows
        if row["complete"]
    }
    figures, detectable = out_of_fold.measure(joined, table.baseline)
    for row in rows:
        row |= figures.get(row["name"], {})
    return {
        "title": table.title,
        "description": table.description,
        "header": list(table.header),
        "baseline": table.baseline,
        "data": data_facts(pairs, splits),
        "detectable": detectable,
        "quoted": [asdict(line) for line in table.quoted],
        "rows": rows,
    }


def _row_facts(
    table: Table,
    row: Row,
    ids: Sequence[Sequence[str]],
    units: Mapping[str, Unit],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """The facts of one row, not compared yet.

    Args:
        table, row: the row and its table.
        ids: of its units, `[seed][fold]`.
        units: the intact ones, by id.
        failed: why a unit could not be trained, by id.
    """
    absent = [unit_id for seed in ids for unit_id in seed if unit_id not in units]
    facts: dict[str, Any] = {
        "name": row.name,
        "cells": list(row.cells),
        "published": dict(row.published),
        "complete": not absent,
        "why": None,
        "config": table.config(row).model_dump(mode="json"),
        "units": [list(seed) for seed in ids],
        "tuned": asdict(row.tuned) if row.tuned else None,
    }
    if absent:
        count = sum(len(seed) for seed in ids)
        reason = next((failed[unit_id] for unit_id in absent if unit_id in failed), "not trained yet")
        return facts | {"why": f"{len(absent)} of {count} units are missing: {reason}"}
    results = [[units[unit_id].facts["result"] for unit_id in seed] for seed in ids]
    return facts | {
        "seconds": math.fsum(result["seconds"] for seed in results for result in seed),
        "fold_auc": [[result["test_auc"] for result in seed] for seed in results],
        "val_auc": [[result["val_auc"] for result in seed] for seed in results],
    }
