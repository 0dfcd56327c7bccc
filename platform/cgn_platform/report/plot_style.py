"""What all charts have in common: colours, axes, legends, and the line of chance.

Colours (after Okabe & Ito 2008, blue lightened) are distinct on white and on near black alike. Text, axes and
grid take theirs from the page's style sheet, so that a chart follows light, dark and print.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from cgn_platform.text import CHANCE, chart_text

BLUE, ORANGE, GREEN, GREY = "#2384C6", "#D55E00", "#009E73", "#808690"


def new_figure(height: int, x_title: str, y_axis: Mapping[str, Any]) -> go.Figure:
    """An empty figure over the whole width of the page; `height` in pixels."""
    return go.Figure().update_layout(
        template="none",
        height=height,
        showlegend=False,
        margin=dict(l=10, r=16, t=30, b=46),  # the button that saves a picture is above the chart
        modebar=dict(bgcolor="rgba(0,0,0,0)", color=GREY, activecolor=BLUE),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=dict(family="system-ui, sans-serif", size=13),
        hovermode="closest",
        xaxis=dict(title=x_title, title_font_size=13, zeroline=False, automargin=True),
        yaxis=dict(**y_axis, title_font_size=13, zeroline=False, automargin=True),
    )


def small_figure(x_title: str, y_title: str) -> go.Figure:
    """An empty figure for a grid of small charts."""
    figure = new_figure(248, x_title, dict(title=y_title))
    figure.update_layout(font_size=12, margin=dict(l=6, r=8, t=24, b=38))
    title = dict(standoff=6, font_size=12)
    return figure.update_xaxes(title=title).update_yaxes(title=title)


def name_axis(names: Sequence[str]) -> dict[str, Any]:
    """A vertical axis of names, the first one at the top; name `i` is at `y=i`."""
    count = len(names)
    ticks = dict(tickvals=list(range(count)), ticktext=list(map(chart_text, names)), ticklabelstandoff=6)
    return dict(range=[count - 0.5, -0.5], showgrid=False, **ticks)


def height_for(rows: int, row_height: int = 32) -> int:
    """Pixels for a chart with so many rows."""
    return 90 + row_height * rows


def add_chance_line(figure: go.Figure, axis: str) -> None:
    """Draw the AUC of chance across the x- or y-axis, which always includes it."""
    line = dict(color=GREY, width=1.5, dash="dot")
    invisible = dict(mode="markers", marker=dict(opacity=0), hoverinfo="skip", showlegend=False)
    if axis == "x":
        figure.add_vline(x=CHANCE, line=line)
        figure.add_scatter(x=[CHANCE], y=[0], **invisible)
    else:
        figure.add_hline(y=CHANCE, line=line)
        figure.add_scatter(x=[1], y=[CHANCE], **invisible)


def add_legend(figure: go.Figure, margin: int = 40) -> go.Figure:
    """Show the legend above the chart, in this margin of pixels."""
    legend = dict(orientation="h", x=0, y=1, yanchor="bottom")
    return figure.update_layout(showlegend=True, legend=legend, margin_t=margin)


def translucent(colour: str) -> str:
    """A colour `#RRGGBB` for areas."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"
