"""A table's facts, from the units in the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cgn.data.pairs import Pairs, Split
from cgn_platform.report.facts import data_facts, run_facts
from cgn_platform.run.site import Site
from cgn_platform.run.table import TableRun
from cgn_platform.space import Row, Table
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger, Unit


def table_facts(
    table: Table, pairs: Pairs, splits: Sequence[Split], *, name: str, run: TableRun, site: Site
) -> dict[str, Any]:
    """All figures of a table, as plain JSON, from the units in the ledger.

    Rows that lack a unit have `complete` false and no figures.
    """
    facts = measured_rows(table, pairs, splits, run, site.ledger)
    searches = {row["tuned"]["study"]: row["tuned"]["seconds"] for row in facts["rows"] if row["tuned"]}
    seconds = [row.get("seconds", 0.0) for row in facts["rows"]] + list(searches.values())
    return facts | {
        "kind": "table",
        "name": name,
        "run": run_facts(site, run.seeds, seconds)
        | {"wall_seconds": run.wall_seconds, "mode": "retuned" if table.tuned else "frozen"},
    }


def measured_rows(
    table: Table, pairs: Pairs, splits: Sequence[Split], run: TableRun, ledger: Ledger
) -> dict[str, Any]:
    """What the units of a table say: its rows, and how they compare with the baseline."""
    ids = {name for row in run.units for seed in row for name in seed}
    units = {name: unit for name in ids if (unit := ledger.find(name)) is not None}
    rows = [
        _row_facts(table, row, names, units, run.failed)
        for row, names in zip(table.rows, run.units, strict=True)
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
