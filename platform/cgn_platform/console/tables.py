"""Tables that commands print."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cgn.metrics import IOU_THRESHOLD
from cgn_platform import text
from cgn_platform.console.fitting import Column, fitting, plain
from cgn_platform.search.records import ENDED
from cgn_platform.search.summary import ranking_value

if TYPE_CHECKING:
    from cgn.fit import FoldResult
    from cgn.measure import BilateralTest
    from cgn_platform.registry.registry import Version
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.search.replay import RuleOutcome
    from cgn_platform.store.ledger import Unit


UNIT_FIGURES = ("val AUC", "test AUC", "seconds")
UNIT_COLUMNS = {
    **{"unit": 0, "method": 2, "backbone": 1, "bilateral": 3, "fold": 0, "seed": 0, "epochs": 0},
    **{"val AUC": 0, "test AUC": 0, "seconds": 4, "reused": 0},
}
"""Columns of `cgn units`; the largest number is left out first where there is no room, 0 never."""
AUC_MEANING = "AUC: 0.5 is chance, 1 is perfect"
MISSED = f"share of the annotated lesions that were missed (IoU below {IOU_THRESHOLD:g}, or wrong class)"
UNRANKED = {"pruned": 1, "failed": 2, "orphan": 3}  # below the complete trials


def leader_board(records: "Sequence[TrialRecord]", rows: int = 10) -> Table:
    """Trials ranked by mean validation AUC; test figures are shown beside it and rank nothing."""
    table = Table(title="Leader board, by mean validation AUC", title_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False  # 80 columns hold it
    for name in ("rank", "trial", "val AUC", "test AUC ± sd*", "loc. error*", "epochs"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    ended = [record for record in records if record.state in ENDED]
    ended.sort(key=lambda record: (UNRANKED.get(record.state, 0), -ranking_value(record), record.number))
    for rank, record in enumerate(ended[:rows], 1):
        complete = record.state == "complete"
        epochs = f"{len(record.curve)}/{record.config.epochs}" if record.config else ""
        table.add_row(
            str(rank) if complete else record.state,
            str(record.number),
            f"{ranking_value(record):.3f}" if record.curve or complete else "",
            _test_auc(record.facts) if complete else "",
            text.number(record.facts.get("localization_error")) if complete else "",
            epochs,
            text.params(record.params),
        )
    table.caption = (
        "trial 0 is the default; * on the test pairs, mean over folds, never used to choose; "
        f"{AUC_MEANING}; loc. error: {MISSED}"
    )
    if len(ended) > rows:
        table.caption += f"; {len(ended) - rows} more trials are in MLflow"
    table.caption_justify = "left"
    return table


def replay_table(outcomes: "Sequence[RuleOutcome]") -> Table:
    """`cgn replay`: what each rule saves and costs, as means over orders."""
    table = Table(title="Rules replayed over complete trials", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("study")
    table.add_column("rule", no_wrap=True)
    for name in ("epochs", "times fewer", "regret", "worst", "test regret ± sd", "wrong", "stopped"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in outcomes:
        table.add_row(
            each.study,
            each.rule,
            f"{each.epochs:.0f}",
            f"{each.times_fewer:.2f}",
            f"{each.regret:.4f}",
            f"{each.regret_worst:.4f}",
            f"{each.test_regret:+.4f} ± {each.test_regret_sd:.4f}",
            f"{each.wrong:.2f}",
            f"{each.stopped:.1f} of {each.trials}",
        )
    unreadable = {each.study: each.unreadable for each in outcomes if each.unreadable}
    missing = "".join(
        f"INCOMPLETE: {count} complete trials of {study} are left out because a unit is missing or damaged, "
        "run its sweep again; "
        for study, count in unreadable.items()
    )
    table.caption = (
        f"{missing}means over {outcomes[0].orders} orders, the recorded one first; regret: validation AUC of "
        "the best trial minus that of the remaining winner; wrong: stopped trials that would have won"
    )
    table.caption_justify = "left"
    return table


def fold_table(folds: "Sequence[FoldResult]") -> Table:
    """The result of `cgn train`: a row for each fold, and the means."""
    table = Table(
        "fold", "best epoch", "val AUC", "test AUC", "localisation error", "of any class", "seconds"
    )
    for fold in folds:
        figures = (fold.val_auc, fold.test_auc, fold.localization_error, fold.localization_error_any_class)
        seconds = f"{fold.seconds:.1f}"
        table.add_row(str(fold.fold), str(fold.best_epoch + 1), *map(text.number, figures), seconds)
    if len(folds) > 1:
        table.add_section()
        names = ("val_auc", "test_auc", "localization_error", "localization_error_any_class")
        means = [statistics.fmean(getattr(fold, name) for fold in folds) for name in names]
        total = f"{sum(fold.seconds for fold in folds):.1f} in all"
        table.add_row("mean", "", *map(text.number, means), total)
    table.caption = (
        f"at the best epoch by validation AUC; {AUC_MEANING}; localisation error: {MISSED}; "
        "of any class: the location only"
    )
    table.caption_justify = "left"
    return table


def table_of(facts: Mapping[str, Any], width: int = 140) -> Table:
    """`cgn table`: the rows of the printed table, published figures, and measured ones beside them.

    Row names and verdicts are never cut. Where there is no room, published columns are left out first.
    """
    table = fitting(_table_columns(facts), width, _table_title(facts))
    settings = _settings(facts)
    notes = [str(table.caption)] if table.caption else []
    notes += [f"({', '.join(settings)}): as published, on other data"] if settings else []
    table.caption = "; ".join([*notes, *_table_notes(facts)])
    return table


def table_text(facts: Mapping[str, Any]) -> str:
    """`cgn table` in a pipe: title and notes as lines that begin with `#`, then cells separated by tabs.

    pandas reads it with `comment="#"`; therefore no cell contains that character.
    """
    comments = [_table_title(facts), *_table_notes(facts)]
    columns = [
        replace(column, cells=[cell.replace("#", "no. ") for cell in column.cells])
        for column in _table_columns(facts)
        if not column.name.startswith("(")  # published
    ]
    return "\n".join([*(f"# {comment}" for comment in comments), plain(columns)])


def _table_title(facts: Mapping[str, Any]) -> str:
    data = facts["data"]
    return f"{facts['title']} on {data['name']}: {data['pairs']} pairs, {data['folds']} folds"


def _table_columns(facts: Mapping[str, Any]) -> list[Column]:
    rows, quoted = facts["rows"], facts.get("quoted", [])
    printed = [*quoted, *rows]
    columns = [
        Column(name, [row["cells"][number] for row in printed]) for number, name in enumerate(facts["header"])
    ]
    for setting in _settings(facts):
        cells = [text.number(row["published"].get(setting)) for row in printed]
        columns.append(Column(f"({setting})", cells, "right", dropped=3, style="dim"))
    aucs, differences, verdicts = zip(*(_measured(row, facts["baseline"]) for row in rows), strict=True)
    against = "against the last row" if _last_is_baseline(facts) else f"against {facts['baseline']}"
    resources = facts["run"]["resources"]
    unit, share = ("GPU-s", resources["gpus"]) if resources["gpus"] else ("CPU-s", resources["cpus"])
    costs = [
        row.get("seconds", 0)
        + row.get("before_seconds", 0)
        + (row["tuned"]["seconds"] if row["tuned"] else 0)
        for row in rows
    ]
    none = [""] * len(quoted)
    return [
        *columns,
        Column("AUC here", [*(["quoted"] * len(quoted)), *aucs], "right"),
        Column("difference", [*none, *differences], "right", dropped=1),
        Column(against, [*none, *verdicts], folded=True),
        Column(unit, [*none, *(f"{seconds * share:.0f}" for seconds in costs)], "right", dropped=2),
    ]


def _table_notes(facts: Mapping[str, Any]) -> list[str]:
    notes = [f"{AUC_MEANING}; mean over folds and seeds, with a 95 % interval over patients"]
    resources = facts["run"]["resources"]
    unit, reserved = ("GPU-s", "GPUs") if resources["gpus"] else ("CPU-s", "CPUs")
    notes.append(f"{unit}: seconds of training times reserved {reserved}, tuning included")
    if facts["run"]["mode"] == "retuned":
        notes.append(f"each row was tuned by a search of {facts['rows'][0]['tuned']['trials']} trials")
    notes += [
        f"quoted, not run: {note}" for note in dict.fromkeys(q["note"] for q in facts.get("quoted", []))
    ]
    if facts["detectable"] is not None:
        notes.append(f"minimum detectable difference under retraining: {facts['detectable']:.3f}")
    return [*notes, *(f"{row['name']}: {row['note']}" for row in facts["rows"] if row.get("note"))]


def _settings(facts: Mapping[str, Any]) -> list[str]:
    lines = [*facts.get("quoted", []), *facts["rows"]]
    return sorted({setting for line in lines for setting in line["published"]})


def _last_is_baseline(facts: Mapping[str, Any]) -> bool:
    return bool(facts["rows"][-1]["name"] == facts["baseline"])


def _measured(row: Mapping[str, Any], baseline: str) -> tuple[str, str, str]:
    """AUC, difference from the baseline, and verdict of a row."""
    if not row["complete"]:
        return ("INCOMPLETE", "", str(row["why"]))
    if "auc" not in row:
        aucs = [auc for seed in row["fold_auc"] for auc in seed]
        return (text.number(statistics.fmean(aucs)), "", "")
    difference = row["difference"]
    if difference is None:
        return (
            text.interval(row["auc"]),
            "",
            "" if row["name"] == baseline else "no baseline to compare with",
        )
    return (text.interval(row["auc"]), text.difference(difference), row["words"])


def units_table(units: "Sequence[Unit]", unfinished: Mapping[str, int], width: int = 140) -> Table:
    """`cgn units`: finished folds, then interrupted ones with a checkpoint."""
    rows = [_unit_cells(unit) for unit in units]
    rows += [(name, *[""] * 5, f"{epochs} so far", *[""] * 4) for name, epochs in unfinished.items()]
    cells = [[row[number] for row in rows] for number in range(len(UNIT_COLUMNS))]
    columns = [
        Column(name, values, "right" if name in UNIT_FIGURES else "left", dropped)
        for (name, dropped), values in zip(UNIT_COLUMNS.items(), cells, strict=True)
    ]
    table = fitting(columns, width)
    reasons = Counter(reason for unit in units if (reason := unit.outdated))
    omitted = f"{table.caption}\n" if table.caption else ""
    table.caption = f"{omitted}{len(units)} finished, {len(unfinished)} interrupted" + "".join(
        f"\n{count} can be read but are not reused ({reason})" for reason, count in reasons.most_common()
    )
    return table


def _unit_cells(unit: "Unit") -> tuple[str, ...]:
    identity, figures = unit.identity, unit.facts["result"]
    shown = [str(identity.config.get(name, "-")) for name in ("method", "backbone", "bilateral")]
    counts = [str(identity.fold), str(identity.config["seed"]), str(identity.config["epochs"])]
    aucs = (text.number(figures[name]) for name in ("val_auc", "test_auc"))
    return (unit.id, *shown, *counts, *aucs, f"{figures['seconds']:.1f}", "no" if unit.outdated else "yes")


def models_table(versions: "Sequence[Version]", width: int = 140) -> Table:
    """`cgn models`: registered versions, newest first."""
    tags = {
        name: [version.tags.get(f"cgn.{name}", "-") for version in versions]
        for name in ("name", "row", "auc", "when", "by")
    }
    columns = [
        Column("version", [str(version.number) for version in versions]),
        Column("aliases", [", ".join(sorted(version.aliases)) for version in versions], folded=True),
        Column("of", tags["name"], folded=True),
        Column("row", tags["row"], folded=True),
        Column("AUC", tags["auc"]),
        Column("when", tags["when"], dropped=1),
        Column("by", tags["by"], dropped=2),
    ]
    table = fitting(columns, width)
    for version, row in zip(versions, table.rows, strict=True):
        row.style = "dim" if "cgn.withdrawn" in version.tags and not version.aliases else None
    table.caption = "; ".join(filter(None, [f"{len(versions)} versions", str(table.caption or "")]))
    return table


def unit_facts(unit: "Unit") -> dict[str, object]:
    """A unit as `cgn units ID` prints it: everything except its hashes."""
    return {name: value for name, value in unit.facts.items() if name not in ("files", "format")}


def bilateral_table(tests: "Mapping[str, BilateralTest]") -> Table:
    """Eq. 15, a row for each kind of features: do the sides of unhealthy pairs differ more?"""
    table = Table("features", "healthy", "unhealthy", "mean healthy", "mean unhealthy", "t", "p", "AUC")
    table.caption = "Frechet distances between the sides; p: Welch's t-test, one-sided (the paper: 0.014)"
    table.caption_justify = "left"
    for name, test in tests.items():
        means = (f"{mean:.3g}" for mean in (test.mean_healthy, test.mean_unhealthy))
        figures = (f"{test.t:.2f}", f"{test.p_value:.2g}", text.number(test.auc))
        table.add_row(name, str(test.healthy), str(test.unhealthy), *means, *figures)
    return table


def measure_table(means: Mapping[str, float], published: Mapping[str, float]) -> Table:
    """Sec. IV-F, means over the test pairs, beside the published ones.

    The scale of features is arbitrary. Ratios to the first published distance can be compared.
    """
    unit = next(iter(published))
    table = Table("Sec. IV-F", "mean", "ratio", "published", "ratio")
    for name, mean in means.items():
        cells = [name.replace("_", " "), text.number(mean)]
        if name in published:
            ours = text.number(mean / means[unit] if means[unit] else None, ".3g")
            cells += [ours, f"{published[name]:.2f}", f"{published[name] / published[unit]:.3g}"]
        table.add_row(*cells)
    table.caption = (
        "published: on INBreast, by features of another scale: compare ratios "
        f"(to {unit.replace('_', ' ')}), not values"
    )
    table.caption_justify = "left"
    return table


def _test_auc(facts: Mapping[str, Any]) -> str:
    folds = [fold["test_auc"] for fold in facts.get("folds", ())]
    spread = f" ± {statistics.stdev(folds):.3f}" if len(folds) > 1 and None not in folds else ""
    return f"{text.number(facts.get('test_auc'))}{spread}"
