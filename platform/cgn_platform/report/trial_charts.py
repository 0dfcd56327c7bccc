"""Charts of the trials of a sweep: pruning over time, history, parallel coordinates, importances.

Drawn by hand: `optuna.visualization` needs a study, where a page has its facts only, and shows neither pruned
trials in the history nor where a trial was stopped; `plotly.graph_objects.Parcoords` draws with WebGL, which
prints as a bitmap, and has no hover and no line of its own for the chosen trial.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from cgn_platform.report.content import Chart, PageContent
from cgn_platform.report.facts import Facts
from cgn_platform.report.plot_style import BLUE, GREEN, GREY, ORANGE, add_chance_line, add_legend, new_figure
from cgn_platform.report.row_charts import bars
from cgn_platform.search.summary import IMPORTANCE_TRIALS
from cgn_platform.text import chart_text, params, short

VALUE = "validation AUC"


def add_trial_charts(facts: Facts, page: PageContent) -> None:
    """Add the charts of a sweep's trials, as the facts list them."""
    trials, best = facts["trials"], facts["best"]
    figure = pruning(trials, facts["default"], best)
    page.charts["pruning"] = [Chart("pruning", figure, "Validation AUC of every trial by epoch.")]
    label = "Validation AUC by trial, and the best one so far."
    page.charts["history"] = [Chart("history", history(trials), label)]
    dimensions = facts["space"]["dimensions"]
    if dimensions and any(trial["value"] is not None for trial in trials):
        label = "The value of every dimension in each complete trial, and its validation AUC."
        figure = parallel(trials, dimensions, best)
        page.charts["parallel"] = [Chart("parallel", figure, label)]
    complete = sum(trial["state"] == "complete" for trial in trials)
    if facts["importances"] and complete >= IMPORTANCE_TRIALS:  # earlier versions stored those of fewer
        figure = bars(facts["importances"], "share of the variance of the validation AUC", ".0%")
        page.charts["importances"] = [Chart("importances", figure, "Importance of each dimension.")]


def pruning(trials: Sequence[Facts], default: int, best: int | None) -> go.Figure:
    """Mean validation AUC over all folds by epoch, one line for each trial; pruned ones end in a cross.

    Args:
        trials: as the facts list them.
        default, best: numbers of the trials that are emphasised.
    """
    figure = new_figure(380, "epoch", dict(title=f"{VALUE}, mean over folds"))
    add_chance_line(figure, "y")
    pruned = [trial for trial in trials if trial["state"] == "pruned"]
    _add_curves(figure, "complete", GREY, [trial for trial in trials if trial["state"] == "complete"])
    _add_curves(figure, "pruned", ORANGE, pruned)
    _add_stops(figure, [trial for trial in pruned if trial["curve"]])
    by_number = {trial["number"]: trial for trial in trials if trial["curve"]}
    if default in by_number:
        _add_emphasised(figure, "default", by_number[default], GREEN, "dash")
    if best in by_number:
        _add_emphasised(figure, "chosen", by_number[best], BLUE, "solid")
    return add_legend(figure)


def _add_curves(figure: go.Figure, name: str, colour: str, trials: Sequence[Facts]) -> None:
    """All curves of a group as one trace."""
    if not trials:
        return
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for trial in trials:
        epochs, values = _curve(trial)
        x += [*epochs, None]  # None ends the line of a trial
        y += [*values, None]
        text += [*[f"trial {trial['number']}"] * len(epochs), None]
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name=name,
        text=text,
        opacity=0.7,
        line=dict(color=colour, width=1.2),
        hovertemplate="%{text}, epoch %{x}: %{y:.3f}<extra></extra>",
    )


def _add_stops(figure: go.Figure, trials: Sequence[Facts]) -> None:
    """A cross where each pruned trial was stopped."""
    if not trials:
        return
    ends = [(epochs[-1], values[-1]) for epochs, values in map(_curve, trials)]
    figure.add_scatter(
        x=[epoch for epoch, _ in ends],
        y=[value for _, value in ends],
        mode="markers",
        name="stopped",
        text=[f"trial {trial['number']}" for trial in trials],
        marker=dict(color=ORANGE, symbol="x", size=7),
        hovertemplate="%{text} stopped after epoch %{x}: %{y:.3f}<extra></extra>",
    )


def _add_emphasised(figure: go.Figure, name: str, trial: Facts, colour: str, dash: str) -> None:
    epochs, values = _curve(trial)
    figure.add_scatter(
        x=epochs,
        y=values,
        mode="lines",
        name=f"{name} (trial {trial['number']})",
        line=dict(color=colour, width=3, dash=dash),
        hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>",
    )


def history(trials: Sequence[Facts]) -> go.Figure:
    """Validation AUC by trial: complete trials, pruned ones at their last value, and the best so far."""
    figure = new_figure(320, "trial", dict(title=VALUE))
    add_chance_line(figure, "y")
    complete = [(trial["number"], trial["value"]) for trial in trials if trial["value"] is not None]
    pruned = [
        (trial["number"], _curve(trial)[1][-1])
        for trial in trials
        if trial["state"] == "pruned" and trial["curve"]
    ]
    for name, points, colour, symbol in (
        ("complete", complete, BLUE, "circle"),
        ("pruned, when it was stopped", pruned, ORANGE, "x"),
    ):
        if points:
            figure.add_scatter(
                x=[number for number, _ in points],
                y=[value for _, value in points],
                mode="markers",
                name=name,
                marker=dict(color=colour, symbol=symbol, size=8),
                hovertemplate="trial %{x}: %{y:.3f}<extra></extra>",
            )
    if complete:
        figure.add_scatter(
            x=[number for number, _ in complete],
            y=np.maximum.accumulate([value for _, value in complete]).tolist(),
            mode="lines",
            name="best so far",
            line=dict(color=BLUE, width=1.5, shape="hv"),
            hoverinfo="skip",
        )
    return add_legend(figure)


class _Axis(NamedTuple):
    """The axis of a dimension, from 0 to 1: its ticks, and its range or its values."""

    name: str
    ticks: list[tuple[float, str]]
    ends: tuple[float, float] = (0, 1)
    log: bool = False
    values: Sequence[Any] = ()

    @classmethod
    def of(cls, name: str, declared: Mapping[str, Any]) -> "_Axis":
        if "values" in declared:
            values = declared["values"]
            steps = max(len(values) - 1, 1)
            return cls(name, [(i / steps, short(value)) for i, value in enumerate(values)], values=values)
        low, high = declared["low"], declared["high"]
        log = bool(declared["log"])
        middle = math.sqrt(low * high) if log else (low + high) / 2
        ticks = [(0.0, short(low)), (0.5, short(middle)), (1.0, short(high))]
        return cls(name, ticks, (low, high), log)

    def place(self, value: Any) -> float | None:
        """Where a value is on the axis; None if the trial does not have this dimension."""
        if value is None and None not in self.values:
            return None
        if self.values:
            return self.values.index(value) / max(len(self.values) - 1, 1)
        low, high = self.ends
        if high == low:
            return 0.5
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))


def parallel(
    trials: Sequence[Facts], dimensions: Mapping[str, Mapping[str, Any]], best: int | None
) -> go.Figure:
    """Parallel coordinates of the complete trials: a line through each value and the validation AUC.

    The best quarter is blue, the chosen trial orange.

    Args:
        trials: as the facts list them.
        dimensions: as the study's declaration has them.
        best: number of the chosen trial.
    """
    complete = sorted((t for t in trials if t["value"] is not None), key=lambda trial: trial["value"])
    values = [trial["value"] for trial in complete]
    low, high = min(values), max(values)
    axes = [_Axis.of(name, declared) for name, declared in dimensions.items()]
    axes.append(_Axis(VALUE, [(0, f"{low:.3f}"), (1, f"{high:.3f}")], (low, high)))
    figure = new_figure(400, "", dict(visible=False, range=[-0.16, 1.1]))
    quarter = float(np.quantile(values, 0.75))
    for trial in complete:
        _add_trial(figure, axes, trial, chosen=trial["number"] == best, good=trial["value"] >= quarter)
    for x, axis in enumerate(axes):
        _add_axis(figure, x, axis)
    return figure.update_xaxes(visible=False, range=[-0.25, len(axes) - 0.6])


def _add_trial(figure: go.Figure, axes: Sequence[_Axis], trial: Facts, *, chosen: bool, good: bool) -> None:
    values = {**trial["params"], VALUE: trial["value"]}
    colour, width, opacity = GREY, 1.6, 0.4
    if chosen:
        colour, width, opacity = ORANGE, 3.5, 1.0
    elif good:
        colour, width, opacity = BLUE, 1.6, 0.75
    figure.add_scatter(
        x=list(range(len(axes))),
        y=[axis.place(values.get(axis.name)) for axis in axes],
        mode="lines+markers",
        connectgaps=True,
        line=dict(color=colour, width=width),
        opacity=opacity,
        marker_size=4,
        text=chart_text(params(values)),
        hovertemplate=f"trial {trial['number']}: %{{text}}<extra></extra>",
    )


def _add_axis(figure: go.Figure, x: int, axis: _Axis) -> None:
    """A vertical line with its ticks, and its name below it."""
    figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, line=dict(color=GREY, width=1), layer="below")
    figure.add_annotation(
        x=x, y=-0.12, text=f"<b>{chart_text(axis.name)}</b>", showarrow=False, xanchor="center"
    )
    for y, text in axis.ticks:
        figure.add_annotation(x=x, y=y, text=chart_text(text), showarrow=False, xshift=6, xanchor="left")


def _curve(trial: Facts) -> tuple[list[int], list[float]]:
    """Epochs from 1 and their values; the keys of the facts are epochs from 0, as JSON text."""
    steps = sorted((int(epoch), value) for epoch, value in trial["curve"].items())
    return [epoch + 1 for epoch, _ in steps], [value for _, value in steps]
