"""Descriptions of the parent runs of sweeps and tables in MLflow, as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cgn.statistics import Interval
from cgn_platform.search.records import TrialRecord
from cgn_platform.search.summary import summary
from cgn_platform.text import bounds, chosen_trial, difference, markdown, measured_auc, number, params
from cgn_platform.tracking.events import RunInfo

BEST = 5  # trials shown


def describe_sweep(
    records: Sequence[TrialRecord],
    *,
    info: RunInfo,
    page: str,
    attached: bool | None,
    report: str = "",
    test_interval: Callable[[Sequence[str] | None], Interval | None] = lambda _units: None,
) -> str:
    """Test AUC of the chosen trial, the best trials by validation AUC, data and code of the sweep, and links.

    Args:
        records: all trials.
        info: names data and code.
        page: in MLflow's UI, with the trials side by side.
        attached: whether the report is an artifact of the run; None if a report is impossible.
        report: the report's page in MLflow's UI.
        test_interval: returns the interval of the test AUC over these units.
    """
    figures = summary(records)
    counts = ", ".join(
        f"{figures[f'trials_{state}']:g} {state}" for state in ("complete", "pruned", "failed")
    )
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    complete.sort(key=lambda record: (-(record.value or 0), record.number))
    rows = [
        (
            str(record.number),
            number(record.value),
            _with_bounds(record.facts.get("test_auc"), test_interval(record.facts.get("units"))),
            number(record.facts.get("localization_error")),
            params(record.params),
        )
        for record in complete[:BEST]
    ]
    header = ("trial", "mean validation AUC", "mean test AUC [95 %]", "localisation error", "parameters")
    return _paragraphs(
        _result(complete[0], test_interval) if complete else "No trial is complete.",
        f"{counts}; pruning saved {figures['epochs_saved']:.0%} of the epochs.",
        _links(info, page, attached, "trials", report),
        _table(header, rows),
        "Ranked by validation AUC, which is optimistic; test figures are not used for selection. "
        "Trial 0 is the default.",
        _data_and_code(info),
    )


def _result(best: TrialRecord, test_interval: Callable[[Sequence[str] | None], Interval | None]) -> str:
    test = test_interval(best.facts.get("units")) or best.facts.get("test_auc")
    return chosen_trial(best.number, test, best.value)


def describe_table(
    facts: Mapping[str, Any], *, info: RunInfo, page: str, attached: bool | None, report: str = ""
) -> str:
    """The rows in their order, the data and code of the table, and links; see `describe_sweep`."""
    data, detectable = facts["data"], facts["detectable"]
    rows = [
        (
            row["name"],
            _auc(row),
            difference(row["difference"]) if row.get("difference") else "",
            _verdict(row, facts["baseline"]),
        )
        for row in facts["rows"]
    ]
    baseline = markdown(facts["baseline"])
    header = ("row", "mean test AUC [95 %]", "difference", f"compared with {baseline}")
    counts = f"{data['pairs']} pairs of {data['patients']} patients, {data['folds']} folds"
    seeds = len(facts["run"]["seeds"])
    return _paragraphs(
        f"{markdown(facts['title'])}: {counts}, {seeds} {'seed' if seeds == 1 else 'seeds'}.",
        _links(info, page, attached, "rows", report),
        _table(header, rows),
        ""
        if detectable is None
        else f"Differences below {detectable:.3f} may not persist when trained on other patients.",
        _data_and_code(info),
    )


def _data_and_code(info: RunInfo) -> str:
    names = [name for name in ("cache", "splits", "code") if name in info.tags]
    return (
        f"Ran on {markdown(info.experiment)}: {', '.join(f'{name} `{info.tags[name]}`' for name in names)}."
    )


def describe_child(info: RunInfo, parent: str, report: str) -> str:
    """Where a trial or row belongs: its parent run, and the report among the parent's artifacts.

    Args:
        info: of the parent.
        parent: its page in MLflow's UI.
        report: the report's page.
    """
    text = f"Part of [{markdown(info.study)}]({parent})."
    if not info.folds:  # a single training has no report
        return text
    return f"{text} Its [report]({report}) is there once `cgn report {info.study}` has made it."


def _links(info: RunInfo, page: str, attached: bool | None, children: str, report: str) -> str:
    """Near the top, because MLflow folds long descriptions."""
    name = f"[`report.html`]({report})" if report else "`report.html`"
    line = {
        True: f"The report is the artifact {name}.",
        False: f"`cgn report {info.study}` makes a page of charts and adds it to the artifacts.",
        None: "",
    }[attached]
    return f"[The {children} side by side]({page}). {line}".rstrip()


def _auc(row: Mapping[str, Any]) -> str:
    if not row["complete"]:
        return "INCOMPLETE"
    if auc := row.get("auc"):
        return measured_auc(auc)
    aucs = [auc for seed in row["fold_auc"] for auc in seed]
    return number(None if None in aucs else sum(aucs) / len(aucs))


def _verdict(row: Mapping[str, Any], baseline: str) -> str:
    if not row["complete"]:
        return str(row["why"])
    return row.get("words") or ("the baseline" if row["name"] == baseline else "")


def _with_bounds(estimate: float | None, interval: Interval | None) -> str:
    return f"{number(estimate)} {bounds(interval) if interval else ''}".rstrip()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
