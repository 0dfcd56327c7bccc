"""Small charts, one for each row of a table, from its units: mean ROC curves and learning curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from cgn_platform.report.content import Chart, Evidence, PageContent
from cgn_platform.report.facts import Facts
from cgn_platform.report.plot_style import BLUE, GREY, ORANGE, add_chance_line, small_figure, translucent
from cgn_platform.store import out_of_fold
from cgn_platform.text import CHANCE

ROC_STEPS = 200  # of the false positive rate
MARGIN = 0.02  # of AUC, above and below learning curves


class Roc(NamedTuple):
    """A ROC curve at the centres of `ROC_STEPS` equal steps of the false positive rate, and its band."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def add_curve_charts(
    facts: Facts, rows: Sequence[Facts], evidence: Mapping[str, Evidence], page: PageContent
) -> None:
    """Add the ROC and learning curves of each row, all on the same axes.

    Args:
        facts: of the table or sweep.
        rows: its complete rows.
        evidence: units by row; rows without them have no curves.
        page: receives the charts.
    """
    if not evidence:
        return
    curves = {name: _roc_of(row) for name, row in evidence.items()}
    baseline = curves.get(facts["baseline"])
    limits = _learning_limits(evidence)
    page.charts["roc"], page.charts["learning"] = [], []
    for number, name in enumerate(row["name"] for row in rows if row["name"] in evidence):
        figure = roc(curves[name], None if name == facts["baseline"] else baseline)
        label = f"Mean ROC curve of {name}; the area under it is its mean AUC."
        page.charts["roc"].append(Chart(f"roc-{number}", figure, label, name))
        units = evidence[name].flat
        val_aucs = [[report.val_auc for report in unit.reports] for unit in units]
        figure = learning(val_aucs, [unit.result.best_epoch for unit in units], *limits)
        label = f"Validation AUC of {name} by epoch: {len(units)} units and their mean."
        page.charts["learning"].append(Chart(f"learning-{number}", figure, label, name))


def _roc_of(evidence: Evidence) -> Roc:
    joined = out_of_fold.join(evidence.units)
    return mean_roc(joined.label, joined.score, joined.fold, joined.patient)


def _learning_limits(evidence: Mapping[str, Evidence]) -> tuple[float, float]:
    """The range of all validation AUCs, with chance in it."""
    values = [report.val_auc for row in evidence.values() for unit in row.flat for report in unit.reports]
    return min([CHANCE - MARGIN, *values]) - MARGIN, max([CHANCE + MARGIN, *values]) + MARGIN


def mean_roc(
    labels: ArrayLike, scores: ArrayLike, folds: ArrayLike, groups: ArrayLike, n: int = 300, seed: int = 0
) -> Roc:
    """Fawcett 2006, vertical averaging. Mean ROC curve of the folds: the area under it is their mean AUC.

    The band is pointwise: at each false positive rate it holds 95 % of `n` bootstrap curves over patients.

    Args:
        labels: `(cases,)`, 1 malignant.
        scores: `(cases,)` or `(seeds, cases)`, out of fold.
        folds, groups: `(cases,)` fold and patient of each case.
        n, seed: number and seed of the bootstrap draws.
    """
    y, table, fold = np.asarray(labels), np.atleast_2d(np.asarray(scores, np.float64)), np.asarray(folds)
    _, patient = np.unique(np.asarray(groups), return_inverse=True)
    patients = int(patient.max()) + 1
    draws = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=n)
    weights = np.concatenate([np.ones((1, len(y))), draws[:, patient]])  # first the sample itself
    x = (np.arange(ROC_STEPS) + 0.5) / ROC_STEPS
    total, count = np.zeros((1 + n, ROC_STEPS)), np.zeros((1 + n, 1))
    for name in np.unique(fold):
        cases = np.flatnonzero(fold == name)
        for score in table[:, cases]:
            curves, valid = _weighted_roc(x, y[cases], score, weights[:, cases])
            total[valid] += curves
            count[valid] += 1
    complete = count[:, 0] > 0
    curves = total[complete] / count[complete]
    low, high = np.quantile(curves[1:], [0.025, 0.975], axis=0)
    return Roc(x, curves[0], low, high)


def _weighted_roc(
    x: NDArray[np.float64], label: NDArray[np.int64], score: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """ROC curves at `x`, one for each row of the weights that has cases of both classes, and these rows.

    (points,), (cases,), (cases,), (draws, cases) -> (valid, points), (valid,)
    """
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(-score[order]) != 0, True)
    positives = np.cumsum(weights[:, order] * (label[order] == 1), axis=1)[:, last_of_tie]
    negatives = np.cumsum(weights[:, order] * (label[order] == 0), axis=1)[:, last_of_tie]
    valid = np.flatnonzero((positives[:, -1] > 0) & (negatives[:, -1] > 0))
    curves = [
        np.interp(
            x,
            np.append(0, negatives[draw] / negatives[draw, -1]),
            np.append(0, positives[draw] / positives[draw, -1]),
        )
        for draw in valid
    ]
    return np.reshape(curves, (len(valid), len(x))), valid


def roc(curve: Roc, baseline: Roc | None) -> go.Figure:
    """A row's mean ROC curve with its band, over the baseline's (dashed) and the diagonal of chance."""
    figure = small_figure("false positive rate", "true positive rate")
    x = [0.0, *curve.x.tolist(), 1.0]
    low, high = (_from_0_to_1(bound) for bound in (curve.low, curve.high))
    figure.add_scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        fill="toself",
        fillcolor=translucent(BLUE),
        mode="none",
        hoverinfo="skip",
    )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=dict(color=GREY, width=1), hoverinfo="skip")
    if baseline is not None:
        line = dict(color=GREY, width=2, dash="dash")
        figure.add_scatter(x=x, y=_from_0_to_1(baseline.y), mode="lines", name="baseline", line=line)
    line = dict(color=BLUE, width=2.5)
    figure.add_scatter(x=x, y=_from_0_to_1(curve.y), mode="lines", name="row", line=line)
    axis = dict(range=[-0.02, 1.02], tickvals=[0, 0.5, 1])
    return figure.update_xaxes(axis).update_yaxes(axis)


def _from_0_to_1(values: NDArray[np.float64]) -> list[float]:
    return [0.0, *values.tolist(), 1.0]


def learning(curves: Sequence[Sequence[float]], best: Sequence[int], low: float, high: float) -> go.Figure:
    """Validation AUC by epoch: each unit thin, their mean bold, the epoch that was kept as a dot.

    Args:
        curves: of each unit, from epoch 0.
        best: each unit's best epoch.
        low, high: range of the y-axis, the same for all rows.
    """
    figure = small_figure("epoch", "validation AUC")
    add_chance_line(figure, "y")
    x: list[float | None] = []
    y: list[float | None] = []
    for curve in curves:
        x += [*range(1, len(curve) + 1), None]  # None ends the line of a unit
        y += [*curve, None]
    figure.add_scatter(
        x=x, y=y, mode="lines", line=dict(color=GREY, width=1), opacity=0.55, hoverinfo="skip", name="units"
    )
    figure.add_scatter(
        x=[epoch + 1 for epoch in best],
        y=[curve[epoch] for curve, epoch in zip(curves, best, strict=True)],
        mode="markers",
        marker=dict(color=ORANGE, size=6),
        name="kept",
        hovertemplate="kept: epoch %{x}, %{y:.3f}<extra></extra>",
    )
    shared = min(map(len, curves))
    figure.add_scatter(
        x=list(range(1, shared + 1)),
        y=np.mean([curve[:shared] for curve in curves], axis=0).tolist(),
        mode="lines",
        line=dict(color=BLUE, width=2.5),
        name="mean",
        hovertemplate="epoch %{x}: mean %{y:.3f}<extra></extra>",
    )
    return figure.update_yaxes(range=[low, high])
