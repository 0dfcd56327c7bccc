"""The report: one HTML file of a finished table or sweep, that opens from disk and asks nobody for anything.

    store/reports/<name>/facts.json    what a table or sweep wrote down of itself: every number on the page
    store/reports/<name>/report.html   the page; curves and pictures are read from the ledger and the cache

The page is `dashboards/report.html.j2` over the facts; `charts` draws. A number is written by `number` from
where it stands in the facts, and carries that place (`data-at`), so that page and facts can be compared.
"""

import base64
import gzip
import io
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from cgn import files, statistics
from cgn.config import Config
from cgn.errors import ConfigError
from cgn.provenance import code_fingerprint, code_version
from cgn_platform import charts, out_of_fold
from cgn_platform.console import wrong_prunes
from cgn_platform.ledger import Ledger, Unit, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cgn.data.pairs import Pairs, Split
    from cgn_platform.cluster import Resources
    from cgn_platform.space import Space
    from cgn_platform.study import TrialRecord

Facts = Mapping[str, Any]
SHORT = {
    statistics.BETTER: "better",
    statistics.WORSE: "worse",
    statistics.UNCLEAR: "not distinguishable",
}
SECTIONS = (  # in the order of the page; each is there where it has this chart
    ("trials", "What was tried", "history"),
    ("pruning", "Pruning over time", "pruning"),
    ("parameters", "What mattered", "parallel"),
    ("differences", "Differences", "forest"),
    ("spread", "Spread over folds and seeds", "spread"),
    ("roc", "ROC curves", "roc"),
    ("learning", "Learning curves", "learning"),
    ("localisation", "Where the networks look", "localization"),
    ("cost", "Cost", "cost"),
    ("run", "What was run", None),
    ("caveats", "Caveats", None),
)
DPI = 90  # of pictures: a film's pixel is a pixel or two


class Chart(NamedTuple):
    """A chart of the page; `label` says in words what it shows, for who cannot see it."""

    id: str
    figure: go.Figure
    label: str
    title: str = ""

    @property
    def spec(self) -> Markup:
        """As JSON that can stand in a page."""
        return _json(self.figure.to_json())

    @property
    def height(self) -> int:
        """In pixels, reserved before it is drawn."""
        return int(self.figure.layout.height)


class Picture(NamedTuple):
    """A picture of the page as a data URI, and in words."""

    source: str
    label: str


@dataclass(frozen=True)
class Evidence:
    """The units behind a row, `[seed][fold]`."""

    units: Sequence[Sequence[Unit]]

    @property
    def flat(self) -> list[Unit]:
        """Of all seeds."""
        return [unit for seed in self.units for unit in seed]


@dataclass
class Page:
    """What the template is filled with. `notes` are what had to be left out, and why."""

    charts: dict[str, list[Chart]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------- page


def write_report(store: Path, name: str, ledger: str, data: "Pairs | None" = None) -> Path:
    """The page of a table or sweep, written whole or not at all.

    Args:
        store: holds `reports/<name>/facts.json`.
        name: of the table or sweep.
        ledger: where its units are.
        data: the cache it ran on, for pictures; without it there are none, which the page says.

    Raises:
        ConfigError: nothing of this name has run, or the cache is another one.
    """
    facts = read_facts(store, name)
    page = facts_path(store, name).with_name("report.html")
    files.write(page, render(facts, Ledger(ledger), data))
    return page


def read_facts(store: Path, name: str) -> dict[str, Any]:
    """What a table or sweep wrote down of itself.

    Raises:
        ConfigError: nothing of this name has run, or an older version wrote it down.
    """
    try:
        facts: dict[str, Any] = json.loads(facts_path(store, name).read_text())
    except FileNotFoundError:
        there = sorted(each.parent.name for each in store.glob("reports/*/facts.json"))
        raise ConfigError(
            f"no table or sweep {name!r} has ended in {store}: there are {', '.join(there) or 'none'}"
        ) from None
    if isinstance(facts.get("corrected"), float):  # without its interval
        raise ConfigError(
            f"an older version wrote the facts of {name!r}: run the sweep's command again, which finds its "
            "trials complete and writes them anew"
        )
    return facts


def facts_path(store: Path, name: str) -> Path:
    """Where a table's or sweep's facts stand."""
    return store / "reports" / name / "facts.json"


def render(facts: Facts, ledger: Ledger, data: "Pairs | None" = None) -> str:
    """The page as text. Raises ConfigError for a cache that is not the one of the facts."""
    if data is not None and data.fingerprint != facts["data"]["cache"]:
        raise ConfigError(
            f"the cache must be {facts['data']['cache']}, which {facts['name']} ran on, "
            f"but is {data.fingerprint}: give the right one or none"
        )
    page = Page()
    rows = [row for row in facts["rows"] if row["complete"]]
    evidence = dict(_evidence(rows, ledger, page))
    _of_figures(facts, rows, page)
    _of_units(facts, rows, evidence, page)
    if facts["kind"] == "sweep":
        _of_trials(facts, page)
    if data is None:
        page.notes.append("No cache was given (--data), so there are no pictures of films.")
    else:
        _pictures(facts, evidence, data, page)
    folder = dashboards()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = {**facts, "derived": derived(facts)}
    environment.filters["place"] = lambda at: _at(told, at)
    return environment.get_template("report.html.j2").render(
        facts=told,
        page=page,
        sections=[(id_, title) for id_, title, needs in SECTIONS if needs is None or needs in page.charts],
        device=_device(facts["run"].get("resources") or {}),
        short=SHORT,
        differing=_differing(rows),
        settings=list(dict.fromkeys(name for row in facts["rows"] for name in row.get("published") or {})),
        css=Markup((folder / "report.css").read_text()),  # noqa: S704 - ours
        number=lambda at, form=".3f": number(told, at, form),
        setting=lambda at: setting(told, at),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    )


def number(facts: Facts, at: str, form: str = ".3f") -> Markup:
    """A number of the facts, as HTML that says which: `rows.3.auc.low`. A dash where there is none."""
    value = _at(facts, at)
    if value is None:
        return Markup("–")
    return Markup('<data value="{}" data-at="{}" data-form="{}">{}</data>').format(
        repr(value), at, form, format(value, form).replace("-", "−")
    )


def setting(facts: Facts, at: str) -> Markup:
    """A field of a configuration: a number as `number` writes it, or a word."""
    value = _at(facts, at)
    if value is None or isinstance(value, str | bool):
        return Markup("{}").format("–" if value is None else value)
    return number(facts, at, ".3g" if isinstance(value, float) else "d")


def _at(facts: Facts, at: str) -> Any:
    value: Any = facts
    for step in at.split("."):
        value = value[int(step)] if isinstance(value, Sequence) else (value or {}).get(step)
    return value


def derived(facts: Facts) -> dict[str, Any]:
    """What is counted from the facts, for the sentences of the page."""
    rows = facts["rows"]
    words = Counter(row.get("words") for row in rows)
    interval = next((row.get("auc") for row in rows if row["name"] == facts["baseline"]), None)
    seconds = {str(row["units"]): row.get("seconds") or 0 for row in rows}  # rows may share their units
    tuned = [row["tuned"] for row in rows if row.get("tuned")]
    searches = {each["study"]: each["seconds"] for each in tuned}
    counts = {
        "compared": sum(words[told] for told in SHORT),
        "better": words[statistics.BETTER],
        "worse": words[statistics.WORSE],
        "unclear": words[statistics.UNCLEAR],
        "incomplete": sum(not row["complete"] for row in rows),
        "guessing": interval is not None and interval["low"] <= charts.CHANCE <= interval["high"],
        "hours": (sum(seconds.values()) + sum(searches.values())) / 3600,
        "fragile": sum(_fragile(row, facts["detectable"]) for row in rows),
    }
    if facts["kind"] == "sweep":
        states = Counter(trial["state"] for trial in facts["trials"])
        counts |= {state: states[state] for state in ("complete", "pruned", "failed", "orphan")}
        counts["hours"] = sum(trial["seconds"] or 0 for trial in facts["trials"]) / 3600
        if facts["corrected"] is not None:
            counts["optimism"] = facts["raw"] - facts["corrected"]["estimate"]
    return counts


def _fragile(row: Facts, detectable: float | None) -> bool:
    """Told apart as it was trained, and nearer than what trainings on other patients may differ by."""
    clear = row.get("words") in (statistics.BETTER, statistics.WORSE)
    return clear and detectable is not None and abs(row["difference"]["estimate"]) < detectable


def _of_figures(facts: Facts, rows: Sequence[Facts], page: Page) -> None:
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


def _of_units(facts: Facts, rows: Sequence[Facts], evidence: Mapping[str, Evidence], page: Page) -> None:
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


def _of_trials(facts: Facts, page: Page) -> None:
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


def _evidence(rows: Sequence[Facts], ledger: Ledger, page: Page) -> Iterator[tuple[str, Evidence]]:
    """The units of each row; a row that misses one has no curves, which is said."""
    for row in rows:
        units = [[ledger.find(name) for name in seed] for seed in row["units"]]
        found = [[unit for unit in seed if unit is not None] for seed in units]
        if [len(seed) for seed in found] == [len(seed) for seed in units]:
            yield row["name"], Evidence(found)
        else:
            page.notes.append(f"{row['name']}: a unit is not in {ledger.where}, so its curves are not drawn.")


def _rows(units: Sequence[Unit]) -> list[dict[str, Any]]:
    return [row for unit in units for row in unit.predictions.to_pylist()]


# ------------------------------------------------------------------------------------------- pictures


def _pictures(facts: Facts, evidence: Mapping[str, Evidence], pairs: "Pairs", page: Page) -> None:
    """Fig. 4 and 5 of three test pairs, chosen by rule: the best, median and worst IoU of the baseline.

    Networks are those of the first seed that were not trained on the pair. Beside the baseline stands the
    row whose mean AUC lies farthest from its own.
    """
    import torch

    from cgn import figures
    from cgn.fit import Images, network_of
    from cgn.methods import Counterfactual

    baseline = evidence.get(facts["baseline"])
    tested = [] if baseline is None else _rows(baseline.units[0])
    ranked = sorted((row for row in tested if row["iou"] is not None), key=lambda row: row["iou"])
    if not ranked:
        page.notes.append("No pictures: the baseline has no test pair with a marked lesion.")
        return
    chosen = [ranked[i] for i in sorted({0, len(ranked) // 2, len(ranked) - 1}, reverse=True)]
    images, index = Images(pairs), np.array([row["index"] for row in chosen], np.int64)
    shown = pairs.target[index], pairs.reference[index], [pairs.boxes[i] for i in index]
    places, features = {}, []
    for title, name in {"baseline": facts["baseline"], "other row": _farthest(facts, evidence)}.items():
        if name is None:
            continue
        units = {unit.identity.fold: unit for unit in evidence[name].units[0]}
        found = []
        for row, i in zip(chosen, index, strict=True):
            unit = units[row["fold"]]
            config = Config.of({**unit.identity.config, "backbone_weights": "none"})
            network, alone = network_of(config, unit.model()), np.array([i], np.int64)
            found.append(figures.places_of(network, images, alone))
            if title == "baseline" and isinstance(network, Counterfactual) and network.generates:
                features.append(network.features(images.batch(torch.from_numpy(alone))))
        cams = np.concatenate([place.cams for place in found])
        places[title] = figures.Places(cams, [place.boxes[0] for place in found])
    ious = ", ".join(f"{row['iou']:.2f}" for row in chosen)
    other = _farthest(facts, evidence)
    told = f"baseline: {facts['baseline']}" + (f"; other row: {other}" if other else "")
    label = f"Target, reference, lesions, and where the networks look. IoU of the baseline: {ious}. {told}."
    page.pictures.append(Picture(_png(figures.fig4(*shown, places)), label))
    if len(features) == len(chosen):
        titles = ("H_T", "H_R", "H_C", "true H_C")
        maps = {
            title: np.concatenate([figures.strongest(h.cpu().numpy()) for h in column])
            for title, column in zip(titles, zip(*features, strict=True), strict=True)
            if column[0] is not None
        }
        label = (
            "Features of the baseline: of the target (H_T), of the reference (H_R), counterfactual (H_C)"
            + (", and of the film without its lesion (true H_C)" if "true H_C" in maps else "")
            + "; one scale of brightness a row. Where the counterfactual works, the lesion is dark in H_C."
        )
        page.pictures.append(Picture(_png(figures.fig5(*shown, maps)), label))


def _farthest(facts: Facts, evidence: Mapping[str, Evidence]) -> str | None:
    rows = [row for row in facts["rows"] if row.get("difference") and row["name"] in evidence]
    row = max(rows, key=lambda row: abs(row["difference"]["estimate"]), default=None)
    return row and str(row["name"])


def _png(figure: "Figure") -> str:
    """Without a background, and with titles that can be read on light and dark."""
    for axes in figure.axes:
        axes.title.set_color(charts.GREY)
    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, transparent=True, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


# --------------------------------------------------------------------------------------------- sweeps


def write_sweep(
    name: str,
    space: "Space",
    records: Sequence["TrialRecord"],
    pairs: "Pairs",
    splits: Sequence["Split"],
    store: Path,
    ledger: str,
    resources: "Resources",
) -> None:
    """Write down what a sweep tells of itself, for `write_report`."""
    from cgn_platform.study import importances

    hours = math.fsum(record.facts.get("seconds") or 0 for record in records) / 3600
    run = {
        "command": " ".join(["cgn", *sys.argv[1:]]),
        "code": code_fingerprint(),
        "git_commit": code_version(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "resources": asdict(resources),
        "cpu_hours": hours * resources.cpus,
        "gpu_hours": hours * resources.gpus,
        "ledger": shown(ledger),
    }
    found = facts_of_sweep(
        name, space, records, pairs, splits, Ledger(ledger), importances=importances(name, store), run=run
    )
    path = facts_path(store, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(found, indent=1) + "\n")


def facts_of_sweep(
    name: str,
    space: "Space",
    records: Sequence["TrialRecord"],
    pairs: "Pairs",
    splits: Sequence["Split"],
    ledger: Ledger,
    *,
    importances: Mapping[str, float],
    run: Facts,
) -> dict[str, Any]:
    """All that is told of a sweep, as plain JSON: of its study's records, and of the ledger.

    The chosen trial is the one with the best mean validation AUC. `raw` is that AUC and `corrected` what
    BBC-CV makes of it, from the validation scores at the epochs that were kept: these the choice was made
    by. Test scores enter nothing but `rows`: the default and the chosen trial, as rows of a table.

    Args:
        importances: of `study.importances`.
        run: what is known of the run: command, code, when, resources and so on.
    """
    from cgn_platform.table import data_facts

    complete = [record for record in records if record.state == "complete" and record.value is not None]
    best = max(complete, key=lambda record: (record.value, -record.number), default=None)
    facts: dict[str, Any] = {
        "kind": "sweep",
        "name": name,
        "title": name,
        "description": space.description,
        "header": ["Configuration"],
        "data": data_facts(pairs, splits),
        "run": {"seeds": [space.base.seed], **run},
        "space": space.declaration(),
        "trials": [_trial(record) for record in records],
        "default": 0,
        "best": best and best.number,
        "raw": None,
        "corrected": None,
        "importances": dict(importances),
        "audit": wrong_prunes(records),
        "baseline": DEFAULT,
        "detectable": None,
        "rows": [],
    }
    if best is None:
        return facts
    val = np.concatenate([split.val for split in splits])
    scores = {str(record.number): _validation_scores(record, ledger) for record in complete}
    if all(len(of) == len(val) for of in scores.values()):  # or a unit has been lost since
        fold = np.concatenate([np.full(len(split.val), split.fold) for split in splits])
        won = statistics.winner(pairs.label[val], scores, pairs.patient_id[val], fold)
        facts |= {"raw": won.raw, "corrected": won.corrected._asdict()}
    rows = {"chosen: trial " + str(best.number) if best.number else DEFAULT: best}
    if best.number and complete[0].number == 0:
        rows = {DEFAULT: complete[0], **rows}
    facts["rows"] = [_sweep_row(name, record) for name, record in rows.items()]
    facts["detectable"] = _compare(facts["rows"], ledger)
    return facts


DEFAULT = "default: trial 0"


def _trial(record: "TrialRecord") -> dict[str, Any]:
    told = record.facts
    return {
        "number": record.number,
        "state": record.state,
        "value": record.value,
        "params": dict(record.params),
        "curve": {str(epoch): value for epoch, value in record.curve.items()},
        **{name: told.get(name) for name in ("test_auc", "folds", "seconds", "reason", "units")},
    }


def _sweep_row(name: str, record: "TrialRecord") -> dict[str, Any]:
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


def _validation_scores(record: "TrialRecord", ledger: Ledger) -> NDArray[np.float64]:
    """Of the folds one after the other, at the epochs that were kept; empty where a unit is not there."""
    units = [ledger.find(name) for name in record.facts["units"]]
    found = [
        unit.reports[unit.facts["result"]["best_epoch"]].val_scores for unit in units if unit is not None
    ]
    return np.concatenate(found) if len(found) == len(units) else np.empty(0)


def _compare(rows: Sequence[dict[str, Any]], ledger: Ledger) -> float | None:
    """Adds to the rows what their test folds say, as a table does; gives the smallest visible difference."""
    joined = {row["name"]: out_of_fold.read(ledger, row["units"]) for row in rows}
    complete = {name: row for name, row in joined.items() if row is not None}
    compared = out_of_fold.compare(complete, DEFAULT) if len(complete) == len(rows) else None
    if compared is None:
        return None
    for row, facts in zip(rows, compared.rows, strict=True):
        row |= facts.plain()
    return compared.detectable


# -------------------------------------------------------------------------------------------- helpers


def _differing(rows: Sequence[Facts]) -> dict[str, list[Any]]:
    """Fields of the configuration in which rows differ, and each row's value."""
    configs = [row["config"] for row in rows if row.get("config")]
    fields = list(configs[0]) if configs else []
    values = {name: [config.get(name) for config in configs] for name in fields}
    return {name: of for name, of in values.items() if any(value != of[0] for value in of)}


def _device(resources: Facts) -> str:
    """What each worker had."""
    amounts = [(resources.get("cpus", 1), "CPU"), (resources.get("gpus", 0), "GPU")]
    return " and ".join(f"{amount:g} {name}{'s' if amount > 1 else ''}" for amount, name in amounts if amount)


def dashboards() -> Path:
    """Beside this module where it is installed; in a checkout at its root."""
    installed = Path(__file__).with_name("dashboards")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "dashboards"


def _json(text: str | None) -> Markup:
    """JSON that no text in it can end: a page's script holds it as it is."""
    return Markup((text or "null").replace("<", "\\u003c"))  # noqa: S704 - that is what it is for
