"""A sweep's facts, from its trial records and the units in the ledger."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn import statistics
from cgn.data.pairs import Pairs, Split
from cgn_platform.report.facts import data_facts, run_facts
from cgn_platform.run.site import Site
from cgn_platform.search.records import TrialRecord, best_of
from cgn_platform.search.study import importances
from cgn_platform.search.summary import wrong_prunes
from cgn_platform.space import Space
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger

DEFAULT = "default: trial 0"  # the name of its row


def sweep_facts(
    space: Space,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    name: str,
    records: Sequence[TrialRecord],
    site: Site,
) -> dict[str, Any]:
    """All figures of a sweep, as plain JSON, from its trial records and the units in the ledger.

    The chosen trial is the one with the best mean validation AUC. `raw` is that AUC, `corrected` the same
    corrected by BBC-CV for having been chosen; both are of the validation scores at the epochs that were kept,
    by which the choice was made. Test scores enter only `rows`: the default and the chosen trial, as rows of a
    table.
    """
    ledger = site.ledger
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    best = best_of(records)
    seconds = [float(record.facts.get("seconds") or 0) for record in records]
    facts: dict[str, Any] = {
        "kind": "sweep",
        "name": name,
        "title": name,
        "description": space.description,
        "header": ["Configuration"],
        "data": data_facts(pairs, splits),
        "run": run_facts(site, [space.base.seed], seconds),
        "space": space.declaration(),
        "trials": [_trial(record) for record in records],
        "default": 0,
        "best": best and best.number,
        "raw": None,
        "corrected": None,
        "importances": importances(name, site.store),
        "audit": wrong_prunes(records),
        "baseline": DEFAULT,
        "detectable": None,
        "rows": [],
    }
    if best is None:
        return facts
    val = np.concatenate([split.val for split in splits])
    scores = {str(record.number): _validation_scores(record, ledger) for record in complete}
    if all(len(of) == len(val) for of in scores.values()):  # or a unit has been lost since
        fold = np.concatenate([np.full(len(split.val), split.fold) for split in splits])
        won = statistics.winner(pairs.label[val], scores, pairs.patient_id[val], fold)
        facts |= {"raw": won.raw, "corrected": won.corrected._asdict()}
    rows = {"chosen: trial " + str(best.number) if best.number else DEFAULT: best}
    if best.number and complete[0].number == 0:
        rows = {DEFAULT: complete[0], **rows}
    facts["rows"] = [_sweep_row(name, record) for name, record in rows.items()]
    facts["detectable"] = _compare(facts["rows"], ledger)
    return facts


def _trial(record: TrialRecord) -> dict[str, Any]:
    told = record.facts
    return {
        "number": record.number,
        "state": record.state,
        "value": record.value,
        "params": dict(record.params),
        "curve": {str(epoch): value for epoch, value in record.curve.items()},
        **{name: told.get(name) for name in ("test_auc", "folds", "seconds", "reason", "units")},
    }


def _sweep_row(name: str, record: TrialRecord) -> dict[str, Any]:
    folds = record.facts["folds"]
    return {
        "name": name,
        "cells": [name],
        "published": {},
        "complete": True,
        "why": None,
        "config": record.config and record.config.model_dump(mode="json"),
        "seconds": sum(fold["seconds"] for fold in folds),
        "units": [record.facts["units"]],
        "fold_auc": [[fold["test_auc"] for fold in folds]],
        "val_auc": [[fold["val_auc"] for fold in folds]],
    }


def _validation_scores(record: TrialRecord, ledger: Ledger) -> NDArray[np.float64]:
    """Of the folds one after the other, at the epochs that were kept; empty where a unit is not there."""
    units = [ledger.find(name) for name in record.facts["units"]]
    found = [
        unit.reports[unit.facts["result"]["best_epoch"]].val_scores for unit in units if unit is not None
    ]
    return np.concatenate(found) if len(found) == len(units) else np.empty(0)


def _compare(rows: Sequence[dict[str, Any]], ledger: Ledger) -> float | None:
    """Adds to the rows what their test folds say, as a table does; gives the smallest visible difference."""
    joined = {row["name"]: out_of_fold.read(ledger, row["units"]) for row in rows}
    complete = {name: row for name, row in joined.items() if row is not None}
    compared = out_of_fold.compare(complete, DEFAULT) if len(complete) == len(rows) else None
    if compared is None:
        return None
    for row, facts in zip(rows, compared.rows, strict=True):
        row |= facts.plain()
    return compared.detectable
