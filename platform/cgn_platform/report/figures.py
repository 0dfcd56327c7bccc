"""The charts of the report, from the facts and the units."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cgn import statistics
from cgn_platform.report import charts
from cgn_platform.report.content import Chart, Evidence, Page
from cgn_platform.report.facts import Facts
from cgn_platform.store import out_of_fold

if TYPE_CHECKING:
    pass


def fact_charts(facts: Facts, rows: Sequence[Facts], page: Page) -> None:
    """Charts of the facts alone."""
    others = [row for row in rows if row.get("difference")]
    if others:
        marks = [_mark(row, "difference", row["words"]) for row in others]
        axis = f"difference of mean test AUC from: {facts['baseline']}"
        words = "; ".join(f"{row['name']}: {row['words']}" for row in others)
        page.charts["forest"] = [
            Chart("forest", charts.forest(marks, axis, facts["detectable"]), f"Differences. {words}.")
        ]
    if rows:
        names, folds = [row["name"] for row in rows], [row["fold_auc"] for row in rows]
        label = "Test AUC of every fold and seed, a row each; the numbers follow."
        page.charts["spread"] = [Chart("spread", charts.spread(names, folds), label)]
        hours = {row["name"]: row["seconds"] / 3600 for row in rows}
        cost = charts.bars(hours, "hours of training, summed over units", ".2g")
        page.charts["cost"] = [Chart("cost", cost, "Hours of training of each row.")]
    placed = [row for row in rows if row.get("localization_error")]
    if placed:
        marks = [_mark(row, "localization_error", row.get("localization_words")) for row in placed]
        errors = charts.forest(marks, "top-1 localisation error (lower is better)", None, None)
        page.charts["localization"] = [
            Chart("localization", errors, "Localisation error of each row with its interval.")
        ]


def _mark(row: Facts, what: str, words: str | None) -> charts.Mark:
    figures = row[what]
    clear = words in (statistics.BETTER, statistics.WORSE)
    return charts.Mark(row["name"], figures["estimate"], figures["low"], figures["high"], clear)


def unit_charts(facts: Facts, rows: Sequence[Facts], evidence: Mapping[str, Evidence], page: Page) -> None:
    """ROC and learning curves, a small chart a row, all on the same axes."""
    if not evidence:
        return
    curves: dict[str, charts.Roc] = {}
    for name, found in evidence.items():
        joined = out_of_fold.join(found.units)
        curves[name] = charts.mean_roc(joined.label, joined.score, joined.fold, joined.patient)
    base = curves.get(facts["baseline"])
    values = [report.val_auc for found in evidence.values() for unit in found.flat for report in unit.reports]
    low, high = min([0.48, *values]) - 0.02, max([0.52, *values]) + 0.02
    page.charts["roc"], page.charts["learning"] = [], []
    for i, row in enumerate(row for row in rows if row["name"] in evidence):
        name = row["name"]
        drawn = charts.roc(curves[name], None if name == facts["baseline"] else base)
        label = f"Mean ROC curve of {name}; the area below it is its mean AUC."
        page.charts["roc"].append(Chart(f"roc-{i}", drawn, label, name))
        units = evidence[name].flat
        drawn = charts.learning(
            [[report.val_auc for report in unit.reports] for unit in units],
            [unit.result.best_epoch for unit in units],
            low,
            high,
        )
        label = f"Validation AUC of {name} by epoch, of {len(units)} units and their mean."
        page.charts["learning"].append(Chart(f"learning-{i}", drawn, label, name))


def trial_charts(facts: Facts, page: Page) -> None:
    trials, default, best = facts["trials"], facts["default"], facts["best"]
    page.charts["pruning"] = [
        Chart("pruning", charts.pruning(trials, default, best), "Validation AUC of every trial by epoch.")
    ]
    page.charts["history"] = [
        Chart("history", charts.history(trials), "Validation AUC by trial, and the best so far.")
    ]
    dimensions = facts["space"]["dimensions"]
    if dimensions and any(trial["value"] is not None for trial in trials):
        label = "What each complete trial tried in every dimension, and its validation AUC."
        page.charts["parallel"] = [Chart("parallel", charts.parallel(trials, dimensions, best), label)]
    if facts["importances"]:
        drawn = charts.bars(facts["importances"], "share of the variance of the validation AUC", ".0%")
        page.charts["importances"] = [Chart("importances", drawn, "Importance of each dimension.")]
