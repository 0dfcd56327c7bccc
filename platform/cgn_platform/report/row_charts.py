"""Charts with one line for each row of a table: differences, fold AUCs, localisation errors, cost."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from cgn import statistics
from cgn_platform import text
from cgn_platform.report.content import Chart, PageContent
from cgn_platform.report.facts import Facts
from cgn_platform.report.format import typographic
from cgn_platform.report.plot_style import (
    BLUE,
    GREY,
    ORANGE,
    add_chance_line,
    add_legend,
    height_for,
    name_axis,
    new_figure,
)
from cgn_platform.text import chart_text

SEED_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")


class Mark(NamedTuple):
    """A row's estimate with its interval; `significant` if it differs from what it is compared with."""

    name: str
    estimate: float
    low: float
    high: float
    significant: bool = False


def add_row_charts(facts: Facts, rows: Sequence[Facts], page: PageContent) -> None:
    """Add the charts that need the facts only.

    Args:
        facts: of the table or sweep.
        rows: its complete rows.
        page: receives the charts.
    """
    compared = [row for row in rows if row.get("difference")]
    if compared:
        marks = [_mark(row, "difference", row["words"]) for row in compared]
        axis = f"difference of mean test AUC from: {facts['baseline']}"
        verdicts = "; ".join(f"{row['name']}: {row['words']}" for row in compared)
        figure = forest(marks, axis, facts["detectable"])
        page.charts["forest"] = [Chart("forest", figure, f"Differences. {verdicts}.")]
    if rows:
        figure = spread([row["name"] for row in rows], [row["fold_auc"] for row in rows])
        label = "Test AUC of every fold and seed, by row. The numbers are listed below the chart."
        page.charts["spread"] = [Chart("spread", figure, label)]
        longest = max(row["seconds"] for row in rows)
        value, unit = text.duration_parts(longest)
        scale = value / longest if longest else 1.0
        times = {row["name"]: row["seconds"] * scale for row in rows}
        figure = bars(times, f"{unit} of training, summed over units", ".2g")
        page.charts["cost"] = [Chart("cost", figure, f"{unit.capitalize()} of training of each row.")]
    localized = [row for row in rows if row.get("localization_error")]
    if localized:
        marks = [_mark(row, "localization_error", row.get("localization_words")) for row in localized]
        figure = forest(marks, "top-1 localisation error (lower is better)", None, None)
        label = "Localisation error of each row with its interval."
        page.charts["localization"] = [Chart("localization", figure, label)]


def _mark(row: Facts, figure: str, verdict: str | None) -> Mark:
    interval = row[figure]
    significant = verdict in (statistics.BETTER, statistics.WORSE)
    return Mark(row["name"], interval["estimate"], interval["low"], interval["high"], significant)


def forest(marks: Sequence[Mark], axis: str, detectable: float | None, line: float | None = 0.0) -> go.Figure:
    """Forest plot: estimates with intervals, by row.

    Args:
        marks: the first one is drawn at the top.
        axis: title of the x-axis.
        detectable: minimum detectable difference; smaller differences are shaded.
        line: a vertical line to compare with; None for rates, whose axis is [0, 1].
    """
    figure = new_figure(height_for(len(marks)), axis, name_axis([mark.name for mark in marks]))
    if detectable is not None:
        figure.add_vrect(x0=-detectable, x1=detectable, fillcolor=GREY, opacity=0.14, line_width=0)
    if line is not None:
        figure.add_vline(x=line, line=dict(color=GREY, width=1.5))
    else:
        figure.update_xaxes(range=[-0.02, 1.02])
    for significant, colour, symbol in ((False, GREY, "circle"), (True, ORANGE, "diamond")):
        group = [(y, mark) for y, mark in enumerate(marks) if mark.significant is significant]
        figure.add_scatter(
            x=[mark.estimate for _, mark in group],
            y=[y for y, _ in group],
            error_x=dict(
                array=[mark.high - mark.estimate for _, mark in group],
                arrayminus=[mark.estimate - mark.low for _, mark in group],
                thickness=2,
                width=5,
            ),
            mode="markers",
            marker=dict(color=colour, size=10, symbol=symbol),
            customdata=[[chart_text(mark.name), mark.low, mark.high] for _, mark in group],
            hovertemplate="%{customdata[0]}<br>%{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]"
            "<extra></extra>",
        )
    form = "+.3f" if line == 0 else ".3f"
    for y, mark in enumerate(marks):
        estimate, low, high = (typographic(value, form) for value in (mark.estimate, mark.low, mark.high))
        text = f"{estimate} [{low}, {high}]"
        figure.add_annotation(text=text, x=1.01, xref="paper", xanchor="left", y=y, showarrow=False)
    return figure.update_layout(margin_r=196)


def spread(names: Sequence[str], fold_auc: Sequence[Sequence[Sequence[float]]]) -> go.Figure:
    """Test AUC of each fold, by row; seeds differ by symbol and height, a bar shows the mean.

    Args:
        names: of the rows.
        fold_auc: `[row][seed][fold]`.
    """
    figure = new_figure(height_for(len(names), 40), "test AUC of a fold", name_axis(names))
    add_chance_line(figure, "x")
    seeds = max(map(len, fold_auc), default=0)
    for seed in range(seeds):
        offset = 0.5 * ((seed + 0.5) / seeds - 0.5)
        points = [
            (auc, y + offset, chart_text(names[y]), fold)
            for y, row in enumerate(fold_auc)
            for fold, auc in enumerate(row[seed] if seed < len(row) else ())
        ]
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="markers",
            name=f"seed {seed}",
            marker=dict(color=BLUE, size=7, opacity=0.8, symbol=SEED_SYMBOLS[seed % len(SEED_SYMBOLS)]),
            customdata=[point[2:] for point in points],
            hovertemplate="%{customdata[0]}, fold %{customdata[1]}: %{x:.3f}<extra></extra>",
        )
    figure.add_scatter(
        x=[float(np.mean([auc for seed in row for auc in seed])) for row in fold_auc],
        y=list(range(len(names))),
        mode="markers",
        name="mean",
        marker=dict(symbol="line-ns", size=26, line=dict(color=ORANGE, width=3)),
        hovertemplate="mean %{x:.3f}<extra></extra>",
    )
    return add_legend(figure, margin=34)


def bars(values: Mapping[str, float], axis: str, form: str) -> go.Figure:
    """Horizontal bars from zero, by name, each with its value at its end."""
    names = list(values)
    figure = new_figure(height_for(len(names)), axis, name_axis(names))
    figure.add_bar(
        x=list(values.values()),
        y=list(range(len(names))),
        orientation="h",
        marker_color=BLUE,
        width=0.55,
        text=[format(value, form) for value in values.values()],
        textposition="outside",
        cliponaxis=False,
        customdata=list(map(chart_text, names)),
        hovertemplate="%{customdata}: %{text}<extra></extra>",
    )
    return figure.update_xaxes(range=[0, 1.12 * max(values.values(), default=1) or 1])
