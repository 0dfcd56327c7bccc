"""The facts of a sweep, from its trial records and the units in the ledger."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn import statistics
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import LedgerError
from cgn_platform.report.facts import Facts, data_facts, run_facts
from cgn_platform.report.row_measurements import row_measurements
from cgn_platform.run.site import Site
from cgn_platform.search.records import TrialRecord, best_of
from cgn_platform.search.study import importances
from cgn_platform.search.summary import wrong_prunes
from cgn_platform.space import Space
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger
from cgn_platform.store.unit_storage import UnreachableError
from cgn_platform.text import chosen_trial

DEFAULT = "default: trial 0"  # name of the row of the default configuration
FIGURES = ("seconds", "fold_auc", "val_auc")
"""Of a complete row, from the study."""


def sweep_facts(
    space: Space,
    pairs: Pairs,
    splits: Sequence[Split],
    *,
    name: str,
    records: Sequence[TrialRecord],
    site: Site,
) -> dict[str, Any]:
    """All figures of a sweep as plain JSON. The keys are part of the stored format.

    The chosen trial is the one with the best mean validation AUC. `raw` is this AUC, and `corrected` is
    corrected by BBC-CV for the selection; both use the validation scores at the epochs that were kept. Test
    scores are used in `rows` only: the default and the chosen trial, as rows of a table.

    Args:
        space: what was searched.
        pairs, splits: the data it ran on.
        name: of the study.
        records: all trials.
        site: where it ran.
    """
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
        "trials": [_trial_facts(record) for record in records],
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
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    facts |= _corrected_for_selection(complete, pairs, splits, site.ledger)
    rows = {DEFAULT: best} if best.number == 0 else {f"chosen: trial {best.number}": best}
    if best.number != 0 and complete[0].number == 0:
        rows = {DEFAULT: complete[0], **rows}
    facts["rows"] = [_row_facts(row, record) for row, record in rows.items()]
    facts["detectable"] = _measure(facts["rows"], site.ledger, pairs.size)
    return facts


def result_of(facts: Facts) -> str:
    """The result of a sweep as a sentence: which trial was chosen, its test AUC, its validation AUC."""
    if facts["best"] is None:
        return "No trial is complete, so no trial was chosen."
    chosen = next(trial for trial in facts["trials"] if trial["number"] == facts["best"])
    measured = facts["rows"][-1].get("auc") if facts["rows"] else None
    return chosen_trial(chosen["number"], measured or chosen["test_auc"], chosen["value"], facts["corrected"])


def _trial_facts(record: TrialRecord) -> dict[str, Any]:
    stored = ("test_auc", "folds", "seconds", "reason", "units")
    return {
        "number": record.number,
        "state": record.state,
        "value": record.value,
        "params": dict(record.params),
        "curve": {str(epoch): value for epoch, value in record.curve.items()},
        **{key: record.facts.get(key) for key in stored},
    }


def _row_facts(name: str, record: TrialRecord) -> dict[str, Any]:
    """A complete trial as the row of a table."""
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


def _corrected_for_selection(
    complete: Sequence[TrialRecord], pairs: Pairs, splits: Sequence[Split], ledger: Ledger
) -> dict[str, Any]:
    """Validation AUC of the best of the complete trials, raw and corrected; empty if a unit was lost."""
    val = np.concatenate([split.val for split in splits])
    fold = np.concatenate([np.full(len(split.val), split.fold) for split in splits])
    scores = {str(record.number): _validation_scores(record, ledger) for record in complete}
    if any(len(trial) != len(val) for trial in scores.values()):
        return {}
    winner = statistics.winner(pairs.label[val], scores, pairs.patient_id[val], fold)
    return {"raw": winner.raw, "corrected": winner.corrected._asdict()}


def _validation_scores(record: TrialRecord, ledger: Ledger) -> NDArray[np.float64]:
    """Scores at the epochs that were kept, fold after fold; empty if a unit or its curve is lost."""
    try:  # the other files were verified when the sweep ended
        units = [ledger.open(unit_id, verify=False) for unit_id in record.facts["units"]]
        return np.concatenate([unit.reports[unit.facts["result"]["best_epoch"]].val_scores for unit in units])
    except UnreachableError:
        raise
    except LedgerError:
        return np.empty(0)


def _measure(rows: Sequence[dict[str, Any]], ledger: Ledger, size: int) -> float | None:
    """Add the figures of the test folds to the rows, as in a table; a row that lost a unit has none.

    Returns:
        The minimum detectable difference; None if there is no comparison.
    """
    joined = {row["name"]: out_of_fold.read(ledger, row["units"]) for row in rows}
    figures, detectable = out_of_fold.measure(
        {name: row for name, row in joined.items() if row is not None}, DEFAULT
    )
    for row in rows:
        if joined[row["name"]] is None:
            row |= {"complete": False, "why": "a unit is missing or damaged"}
            for name in FIGURES:
                del row[name]
        else:
            units = [[ledger.open(unit_id, verify=False) for unit_id in seed] for seed in row["units"]]
            row |= row_measurements(units, Config.of(row["config"]) if row["config"] else None, size)
        row |= figures.get(row["name"], {})
    return detectable
