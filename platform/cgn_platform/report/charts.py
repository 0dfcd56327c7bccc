"""The report's charts: functions of plain numbers that give Plotly figures. Nothing is read or written here.

Colours (after Okabe & Ito 2008, blue lightened) stand out on white and on near black alike; text, axes and
grid take theirs from the page's style sheet, so that a chart follows light, dark and print.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

BLUE, ORANGE, GREEN, GREY = "#2384C6", "#D55E00", "#009E73", "#808690"


CHANCE = 0.5  # of an AUC: every axis of one shows it


SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")  # of seeds


GRID = 200  # steps of a ROC curve's axis


Curve = Mapping[int, float] | Sequence[float]


class Mark(NamedTuple):
    """A row's figure with its interval, and whether it is told apart from what it is compared with."""

    name: str
    estimate: float
    low: float
    high: float
    clear: bool = False


class Roc(NamedTuple):
    """A ROC curve at the middles of `GRID` equal steps of the false positive rate, and its band."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def forest(marks: Sequence[Mark], axis: str, detectable: float | None, line: float | None = 0.0) -> go.Figure:
    """Estimates with intervals, a row each, against a line; what the design cannot show is shaded."""
    figure = _figure(_tall(len(marks)), axis, _names([mark.name for mark in marks]))
    if detectable is not None:
        figure.add_vrect(x0=-detectable, x1=detectable, fillcolor=GREY, opacity=0.14, line_width=0)
    if line is not None:
        figure.add_vline(x=line, line=dict(color=GREY, width=1.5))
    else:
        figure.update_xaxes(range=[-0.02, 1.02])  # a share
    for clear, colour in ((False, GREY), (True, ORANGE)):
        of = [(i, mark) for i, mark in enumerate(marks) if mark.clear is clear]
        figure.add_scatter(
            x=[mark.estimate for _, mark in of],
            y=[i for i, _ in of],
            error_x=dict(
                array=[mark.high - mark.estimate for _, mark in of],
                arrayminus=[mark.estimate - mark.low for _, mark in of],
                thickness=2,
                width=5,
            ),
            mode="markers",
            marker=dict(color=colour, size=10, symbol="diamond" if clear else "circle"),
            customdata=[[mark.name, mark.low, mark.high] for _, mark in of],
            hovertemplate="%{customdata[0]}<br>%{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]"
            "<extra></extra>",
        )
    for i, mark in enumerate(marks):
        figure.add_annotation(
            text=f"{_signed(mark.estimate, line)} [{_signed(mark.low, line)}, {_signed(mark.high, line)}]",
            x=1.01, xref="paper", xanchor="left", y=i, showarrow=False,
        )  # fmt: skip
    return figure.update_layout(margin_r=196)


def spread(names: Sequence[str], fold_auc: Sequence[Sequence[Sequence[float]]]) -> go.Figure:
    """Each fold's test AUC, by row; seeds apart by symbol and place, the mean as a bar."""
    figure = _figure(_tall(len(names), 40), "test AUC of a fold", _names(names))
    _chance(figure, "x")
    seeds = max(map(len, fold_auc), default=0)
    for seed in range(seeds):
        offset = 0.5 * ((seed + 0.5) / seeds - 0.5)
        points = [
            (auc, row + offset, names[row], fold)
            for row, of in enumerate(fold_auc)
            for fold, auc in enumerate(of[seed] if seed < len(of) else ())
        ]
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="markers",
            name=f"seed {seed}",
            marker=dict(color=BLUE, size=7, opacity=0.8, symbol=SYMBOLS[seed % len(SYMBOLS)]),
            customdata=[point[2:] for point in points],
            hovertemplate="%{customdata[0]}, fold %{customdata[1]}: %{x:.3f}<extra></extra>",
        )
    means = [float(np.mean([auc for seed in of for auc in seed])) for of in fold_auc]
    figure.add_scatter(
        x=means, y=list(range(len(names))), mode="markers", name="mean",
        marker=dict(symbol="line-ns", size=26, line=dict(color=ORANGE, width=3)),
        hovertemplate="mean %{x:.3f}<extra></extra>",
    )  # fmt: skip
    return figure.update_layout(
        showlegend=True, legend=dict(orientation="h", x=0, y=1, yanchor="bottom"), margin_t=34
    )


def mean_roc(
    labels: ArrayLike, scores: ArrayLike, folds: ArrayLike, groups: ArrayLike, n: int = 300, seed: int = 0
) -> Roc:
    """Fawcett 2006, vertical averaging. The mean of the folds' curves: the area below it is their mean AUC.

    The band holds 95 % of the curves of `n` draws of patients at each place, not whole curves.

    Args:
        labels: `(cases,)`, 1 malignant.
        scores: `(seeds, cases)`, out of fold.
        folds, groups: `(cases,)` fold and patient of each case.
        n, seed: of the draws.
    """
    y, table, fold = np.asarray(labels), np.atleast_2d(np.asarray(scores, np.float64)), np.asarray(folds)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    picks = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    weights = np.concatenate([np.ones((1, len(y))), picks[:, member]])
    x = (np.arange(GRID) + 0.5) / GRID
    total, there = np.zeros((1 + n, GRID)), np.zeros((1 + n, 1))
    for part in (np.flatnonzero(fold == name) for name in np.unique(fold)):
        for score in table[:, part]:
            order = part[np.argsort(-score, kind="stable")]
            last = np.append(np.diff(np.sort(-score)) != 0, True)  # of those that share a score
            true, false = (
                np.cumsum(weights[:, order] * of, axis=1)[:, last] for of in (y[order] == 1, y[order] == 0)
            )
            for draw in np.flatnonzero((true[:, -1] > 0) & (false[:, -1] > 0)):
                rate = [np.append(0, of[draw] / of[draw, -1]) for of in (false, true)]
                total[draw] += np.interp(x, rate[0], rate[1])
                there[draw] += 1
    curves = total[there[:, 0] > 0] / there[there[:, 0] > 0]
    low, high = np.quantile(curves[1:], [0.025, 0.975], axis=0)
    return Roc(x, curves[0], low, high)


def roc(curve: Roc, other: Roc | None) -> go.Figure:
    """A row's mean ROC curve with its band, over the baseline's (dashed) and the diagonal of guessing."""
    figure = _small("false positive rate", "true positive rate")
    x = [0.0, *curve.x.tolist(), 1.0]
    band = [[0.0, *of.tolist(), 1.0] for of in (curve.low, curve.high)]
    figure.add_scatter(
        x=x + x[::-1], y=band[1] + band[0][::-1], fill="toself", fillcolor=_faint(BLUE), mode="none",
        hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=dict(color=GREY, width=1), hoverinfo="skip")
    if other is not None:
        figure.add_scatter(
            x=x, y=[0.0, *other.y.tolist(), 1.0], mode="lines", name="baseline",
            line=dict(color=GREY, width=2, dash="dash"),
        )  # fmt: skip
    figure.add_scatter(
        x=x, y=[0.0, *curve.y.tolist(), 1.0], mode="lines", name="row", line=dict(color=BLUE, width=2.5)
    )
    axis = dict(range=[-0.02, 1.02], tickvals=[0, 0.5, 1])
    return figure.update_xaxes(axis).update_yaxes(axis)


def learning(curves: Sequence[Sequence[float]], best: Sequence[int], low: float, high: float) -> go.Figure:
    """Validation AUC by epoch: each unit thin, their mean bold, the epoch that was kept as a dot.

    Args:
        curves: of each unit, from epoch 0.
        best: each unit's best epoch.
        low, high: of the axis, one for all rows.
    """
    figure = _small("epoch", "validation AUC")
    _chance(figure, "y")
    x: list[float | None] = []
    y: list[float | None] = []
    for curve in curves:
        x += [*range(1, len(curve) + 1), None]
        y += [*curve, None]
    figure.add_scatter(
        x=x, y=y, mode="lines", line=dict(color=GREY, width=1), opacity=0.55, hoverinfo="skip", name="units"
    )
    figure.add_scatter(
        x=[epoch + 1 for epoch in best], y=[curve[epoch] for curve, epoch in zip(curves, best, strict=True)],
        mode="markers", marker=dict(color=ORANGE, size=6), name="kept",
        hovertemplate="kept: epoch %{x}, %{y:.3f}<extra></extra>",
    )  # fmt: skip
    shared = min(map(len, curves))
    figure.add_scatter(
        x=list(range(1, shared + 1)), y=np.mean([curve[:shared] for curve in curves], axis=0).tolist(),
        mode="lines", line=dict(color=BLUE, width=2.5), name="mean",
        hovertemplate="epoch %{x}: mean %{y:.3f}<extra></extra>",
    )  # fmt: skip
    return figure.update_yaxes(range=[low, high])


def bars(values: Mapping[str, float], axis: str, form: str) -> go.Figure:
    """A bar a name, from zero, its figure at its end."""
    names = list(values)
    figure = _figure(_tall(len(names)), axis, _names(names))
    figure.add_bar(
        x=list(values.values()), y=list(range(len(names))), orientation="h", marker_color=BLUE, width=0.55,
        text=[format(value, form) for value in values.values()], textposition="outside", cliponaxis=False,
        customdata=names, hovertemplate="%{customdata}: %{text}<extra></extra>",
    )  # fmt: skip
    return figure.update_xaxes(range=[0, 1.12 * max(values.values(), default=1) or 1])


def pruning(trials: Sequence[Mapping[str, Any]], default: int, best: int | None) -> go.Figure:
    """Mean validation AUC over all folds by epoch, a line a trial; those stopped end in a cross."""
    figure = _figure(380, "epoch", dict(title="validation AUC, mean over folds"))
    _chance(figure, "y")
    groups = (
        ("complete", GREY, [t for t in trials if t["state"] == "complete"]),
        ("pruned", ORANGE, [t for t in trials if t["state"] == "pruned"]),
    )
    for state, colour, of in groups:
        x: list[int | None] = []
        y: list[float | None] = []
        told: list[str | None] = []
        for trial in of:
            steps = _steps(trial["curve"])
            x += [epoch + 1 for epoch, _ in steps] + [None]
            y += [value for _, value in steps] + [None]
            told += [f"trial {trial['number']}"] * len(steps) + [None]
        if of:
            figure.add_scatter(
                x=x, y=y, mode="lines", name=state, text=told, opacity=0.7,
                line=dict(color=colour, width=1.2),
                hovertemplate="%{text}, epoch %{x}: %{y:.3f}<extra></extra>",
            )  # fmt: skip
    ends = [(t["number"], _steps(t["curve"])[-1]) for t in groups[1][2] if t["curve"]]
    if ends:
        figure.add_scatter(
            x=[end[0] + 1 for _, end in ends], y=[end[1] for _, end in ends], mode="markers", name="stopped",
            text=[f"trial {number}" for number, _ in ends],
            marker=dict(color=ORANGE, symbol="x", size=7),
            hovertemplate="%{text} stopped after epoch %{x}: %{y:.3f}<extra></extra>",
        )  # fmt: skip
    kept = {"default": (default, GREEN, "dash"), "chosen": (best, BLUE, "solid")}
    for name, (number, colour, dash) in kept.items():
        for trial in (t for t in trials if t["number"] == number and t["curve"]):
            steps = _steps(trial["curve"])
            figure.add_scatter(
                x=[epoch + 1 for epoch, _ in steps], y=[value for _, value in steps], mode="lines",
                name=f"{name} (trial {number})", line=dict(color=colour, width=3, dash=dash),
                hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>",
            )  # fmt: skip
    return _legend(figure)


def history(trials: Sequence[Mapping[str, Any]]) -> go.Figure:
    """What was tried when: complete trials, those pruned at their last value, and the best so far."""
    figure = _figure(320, "trial", dict(title="validation AUC"))
    _chance(figure, "y")
    complete = [(t["number"], t["value"]) for t in trials if t["value"] is not None]
    pruned = [
        (t["number"], _steps(t["curve"])[-1][1]) for t in trials if t["state"] == "pruned" and t["curve"]
    ]
    for name, of, colour, symbol in (
        ("complete", complete, BLUE, "circle"),
        ("pruned, when it was stopped", pruned, ORANGE, "x"),
    ):
        if of:
            figure.add_scatter(
                x=[number for number, _ in of], y=[value for _, value in of], mode="markers", name=name,
                marker=dict(color=colour, symbol=symbol, size=8),
                hovertemplate="trial %{x}: %{y:.3f}<extra></extra>",
            )  # fmt: skip
    if complete:
        so_far = np.maximum.accumulate([value for _, value in complete]).tolist()
        figure.add_scatter(
            x=[number for number, _ in complete], y=so_far, mode="lines", name="best so far",
            line=dict(color=BLUE, width=1.5, shape="hv"), hoverinfo="skip",
        )  # fmt: skip
    return _legend(figure)


def parallel(
    trials: Sequence[Mapping[str, Any]], dimensions: Mapping[str, Mapping[str, Any]], best: int | None
) -> go.Figure:
    """A line a complete trial through what it tried and what came of it; the best quarter in blue.

    Args:
        dimensions: as the study's declaration has them.
    """
    complete = sorted((t for t in trials if t["value"] is not None), key=lambda t: t["value"])
    values = [trial["value"] for trial in complete]
    low, high = min(values), max(values)
    axes = [_Axis.of(name, declared) for name, declared in dimensions.items()]
    axes.append(_Axis("validation AUC", [(0, f"{low:.3f}"), (1, f"{high:.3f}")], (low, high)))
    figure = _figure(400, "", dict(visible=False, range=[-0.16, 1.1]))
    quarter = float(np.quantile(values, 0.75))
    for trial in complete:
        params = {**trial["params"], "validation AUC": trial["value"]}
        good, chosen = trial["value"] >= quarter, trial["number"] == best
        places = [axis.place(params.get(axis.name)) for axis in axes]
        told = ", ".join(f"{name} {_short(value)}" for name, value in params.items())
        figure.add_scatter(
            x=list(range(len(axes))), y=places, mode="lines+markers", connectgaps=True,
            line=dict(color=ORANGE if chosen else BLUE if good else GREY, width=3.5 if chosen else 1.6),
            opacity=1 if chosen else 0.75 if good else 0.4, marker_size=4, text=told,
            hovertemplate=f"trial {trial['number']}: %{{text}}<extra></extra>",
        )  # fmt: skip
    for i, axis in enumerate(axes):
        figure.add_shape(type="line", x0=i, x1=i, y0=0, y1=1, line=dict(color=GREY, width=1), layer="below")
        for y, text in ((-0.12, f"<b>{axis.name}</b>"), *axis.ticks):
            figure.add_annotation(
                x=i, y=y, text=text, showarrow=False, xshift=0 if y < 0 else 6,
                xanchor="center" if y < 0 else "left",
            )  # fmt: skip
    return figure.update_xaxes(visible=False, range=[-0.25, len(axes) - 0.6])


class _Axis(NamedTuple):
    """Of a dimension: what stands where on it, from 0 to 1."""

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
            return cls(name, [(i / steps, _short(v)) for i, v in enumerate(values)], values=values)
        low, high = declared["low"], declared["high"]
        log = bool(declared["log"])
        middle = math.sqrt(low * high) if log else (low + high) / 2
        ticks = [(0.0, _short(low)), (0.5, _short(middle)), (1.0, _short(high))]
        return cls(name, ticks, (low, high), log)

    def place(self, value: Any) -> float | None:
        if value is None and None not in self.values:
            return None  # the dimension does not exist in this trial
        if self.values:
            return self.values.index(value) / max(len(self.values) - 1, 1)
        low, high = self.ends
        if high == low:
            return 0.5
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))


def _figure(height: int, x: str, y: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    return figure.update_layout(
        template="none",
        height=height,
        showlegend=False,
        margin=dict(l=10, r=16, t=30, b=46),  # the button that saves a picture has its place above
        modebar=dict(bgcolor="rgba(0,0,0,0)", color=GREY, activecolor=BLUE),
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=dict(family="system-ui, sans-serif", size=13),
        hovermode="closest",
        xaxis=dict(title=x, title_font_size=13, zeroline=False, automargin=True),
        yaxis=dict(**y, title_font_size=13, zeroline=False, automargin=True),
    )


def _small(x: str, y: str) -> go.Figure:
    figure = _figure(248, x, dict(title=y))
    figure.update_layout(font_size=12, margin=dict(l=6, r=8, t=24, b=38))
    return figure.update_xaxes(title=dict(standoff=6, font_size=12)).update_yaxes(
        title=dict(standoff=6, font_size=12)
    )


def _names(names: Sequence[str]) -> dict[str, Any]:
    """An axis of rows, the first one on top."""
    count = len(names)
    ticks = dict(tickvals=list(range(count)), ticktext=list(names), ticklabelstandoff=6)
    return dict(range=[count - 0.5, -0.5], showgrid=False, **ticks)


def _tall(rows: int, each: int = 32) -> int:
    return 90 + each * rows


def _chance(figure: go.Figure, axis: str) -> None:
    """The line of guessing; it is within the axis even where no value comes near."""
    line = dict(color=GREY, width=1.5, dash="dot")
    hidden = dict(mode="markers", marker=dict(opacity=0), hoverinfo="skip", showlegend=False)
    if axis == "x":
        figure.add_vline(x=CHANCE, line=line)
        figure.add_scatter(x=[CHANCE], y=[0], **hidden)
    else:
        figure.add_hline(y=CHANCE, line=line)
        figure.add_scatter(x=[1], y=[CHANCE], **hidden)


def _legend(figure: go.Figure) -> go.Figure:
    return figure.update_layout(
        showlegend=True, legend=dict(orientation="h", x=0, y=1, yanchor="bottom"), margin_t=40
    )


def _steps(curve: Curve) -> list[tuple[int, float]]:
    """Epochs and values; JSON has turned the epochs to texts."""
    if isinstance(curve, Mapping):
        return sorted((int(epoch), value) for epoch, value in curve.items())
    return list(enumerate(curve))


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.22)"


def _signed(value: float, line: float | None) -> str:
    """As on the page: a true minus, a sign where it is a difference."""
    return format(value, "+.3f" if line == 0 else ".3f").replace("-", "−")


def _short(value: Any) -> str:
    return format(value, ".3g") if isinstance(value, float) else str(value)
