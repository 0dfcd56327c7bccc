"""What a run in MLflow says of itself: the description of a sweep's or table's parent, as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cgn_platform.search.summary import summary

if TYPE_CHECKING:
    from cgn.statistics import Interval
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.tracking.events import RunInfo


BOARD = 5  # trials on the board


def of_sweep(
    records: "Sequence[TrialRecord]",
    *,
    about: "RunInfo",
    page: str,
    report: bool | None,
    interval: "Callable[[Sequence[str] | None], Interval | None]" = lambda _units: None,
) -> str:
    """The best trials by validation AUC, what the sweep ran on, and where there is more.

    Args:
        records: of all trials.
        about: names data and code.
        page: of MLflow's UI, with the trials side by side.
        report: whether the report is among the artifacts; None where there cannot be one.
        interval: of the test AUC over these units.
    """
    figures = summary(records)
    states = ("complete", "pruned", "failed")
    counts = ", ".join(f"{figures[f'trials_{state}']:g} {state}" for state in states)
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    complete.sort(key=lambda record: (-(record.value or 0), record.number))
    rows = [
        (
            str(record.number),
            _figure(record.value),
            _with_ends(record.facts.get("test_auc"), interval(record.facts.get("units"))),
            _figure(record.facts.get("localization_error")),
            _params(record.params),
        )
        for record in complete[:BOARD]
    ]
    header = ("trial", "mean validation AUC", "mean test AUC [95 %]", "localisation error", "parameters")
    return _joined(
        f"{counts}; pruning saved {figures['epochs_saved']:.0%} of the epochs.",
        _links(about, page, report, "trials"),
        _table(header, rows),
        "Ranked by validation AUC; test figures are shown and chose nothing. Trial 0 is the default.",
        _ran_on(about),
    )


def of_table(facts: Mapping[str, Any], *, about: "RunInfo", page: str, report: bool | None) -> str:
    """Its rows in their order, what it ran on, and where there is more; see `of_sweep`."""
    data = facts["data"]
    rows = [
        (row["name"], _auc(row), _difference(row), _words(row, facts["baseline"])) for row in facts["rows"]
    ]
    header = ("row", "mean test AUC [95 %]", "difference", f"against {facts['baseline']}")
    seen = facts["detectable"]
    counts = f"{data['pairs']} pairs of {data['patients']} patients, {data['folds']} folds"
    count = len(facts["run"]["seeds"])
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    return _joined(
        f"{facts['title']}: {counts}, {seeds}.",
        _links(about, page, report, "rows"),
        _table(header, rows),
        "" if seen is None else f"Differences below {seen:.3f} may vanish in trainings on other patients.",
        _ran_on(about),
    )


def _ran_on(about: "RunInfo") -> str:
    tags = about.tags
    told = ", ".join(f"{name} `{tags[name]}`" for name in ("cache", "splits", "code") if name in tags)
    return f"Ran on {about.experiment}: {told}."


def _links(about: "RunInfo", page: str, report: bool | None, what: str) -> str:
    """Near the top: MLflow folds long descriptions."""
    more = {
        True: "The report is `report.html` among the artifacts.",
        False: f"`cgn report {about.study}` makes a page of charts and adds it to the artifacts.",
        None: "",
    }[report]
    return f"[The {what} side by side]({page}). {more}".rstrip()


def _auc(row: Mapping[str, Any]) -> str:
    if not row["complete"]:
        return "INCOMPLETE"
    if auc := row.get("auc"):
        return f"{auc['estimate']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
    aucs = [auc for seed in row["fold_auc"] for auc in seed]
    return _figure(None if None in aucs else sum(aucs) / len(aucs))


def _difference(row: Mapping[str, Any]) -> str:
    gap = row.get("difference")
    return f"{gap['estimate']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]" if gap else ""


def _words(row: Mapping[str, Any], baseline: str) -> str:
    if not row["complete"]:
        return str(row["why"])
    return row.get("words") or ("the baseline" if row["name"] == baseline else "")


def _with_ends(estimate: float | None, interval: "Interval | None") -> str:
    return _figure(estimate) + (f" [{interval.low:.3f}, {interval.high:.3f}]" if interval else "")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _params(params: Mapping[str, Any]) -> str:
    told = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in params.values())
    return ", ".join(f"{name} {value}" for name, value in zip(params, told, strict=True))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _joined(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
