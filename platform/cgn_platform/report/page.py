"""The page of a finished table or sweep: one HTML file that opens from disk and loads nothing else.

    store/reports/<name>/facts.json    every number on the page, written when the table or sweep ended
    store/reports/<name>/report.html   the page; curves and pictures are read from the ledger and the cache

The template is `dashboards/report.html.j2`. `format.number` writes each number with its path in the facts
(`data-at`), so that a test can compare page and facts.
"""

import base64
import gzip
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from cgn import files, statistics
from cgn.data.pairs import Pairs
from cgn.errors import ConfigError
from cgn_platform.report.content import PageContent, find_evidence
from cgn_platform.report.curve_charts import add_curve_charts
from cgn_platform.report.facts import Facts, read_facts
from cgn_platform.report.film_pictures import draw_pictures
from cgn_platform.report.format import number, setting, value_at
from cgn_platform.report.row_charts import add_row_charts
from cgn_platform.report.templates import dashboards, environment
from cgn_platform.report.trial_charts import add_trial_charts
from cgn_platform.search.summary import IMPORTANCE_TRIALS
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger
from cgn_platform.text import CHANCE, against_chance, duration_parts

SHORT_VERDICTS = {  # of the verdicts that facts store
    statistics.BETTER: "better",
    statistics.WORSE: "worse",
    statistics.UNCLEAR: "not distinguishable",
}
SECTIONS = (  # in the order of the page: id, title, and the chart without which a section is left out
    ("trials", "Trials", "history"),
    ("pruning", "Pruning", "pruning"),
    ("parameters", "Which dimensions mattered", "parallel"),
    ("differences", "Differences", "forest"),
    ("spread", "Spread over folds and seeds", "spread"),
    ("roc", "ROC curves", "roc"),
    ("learning", "Learning curves", "learning"),
    ("localisation", "Localisation", "localization"),
    ("cost", "Cost", "cost"),
    ("run", "Provenance", None),
    ("caveats", "Limitations", None),
)


def write_report(store: Store, name: str, ledger: Ledger, data: Pairs | None = None) -> Path:
    """Write the page of a table or sweep, atomically.

    Args:
        store: holds the facts.
        name: of the table or sweep.
        ledger: holds its units.
        data: the cache it ran on, for pictures; without it the page has none, and says so.

    Returns:
        The path of the page.

    Raises:
        ConfigError: nothing of this name has finished, or the cache is another one.
    """
    page = store.report(name).page
    files.write(page, render(read_facts(store, name), ledger, data))
    return page


def render(facts: Facts, ledger: Ledger, data: Pairs | None = None) -> str:
    """The page as HTML. Raises ConfigError if the cache is not the one of the facts."""
    if data is not None and data.fingerprint != facts["data"]["cache"]:
        raise ConfigError(
            f"the cache must be {facts['data']['cache']}, which {facts['name']} ran on, "
            f"but is {data.fingerprint}",
            remedy="give the right cache or none",
        )
    rows = [row for row in facts["rows"] if row["complete"]]
    page = _content(facts, rows, ledger, data)
    shown = {**facts, "derived": derived_figures(facts)}
    templates = environment(html=True)
    templates.filters["value_at"] = lambda path: value_at(shown, path)
    lines = [*facts.get("quoted", []), *facts["rows"]]
    published = (name for line in lines for name in line.get("published") or {})
    return templates.get_template("report.html.j2").render(
        facts=shown,
        page=page,
        sections=[(id_, title) for id_, title, chart in SECTIONS if chart is None or chart in page.charts],
        resources=_resources(facts["run"].get("resources") or {}),
        short_verdicts=SHORT_VERDICTS,
        differing=_differing_fields(rows),
        against_chance=against_chance,
        importance_trials=IMPORTANCE_TRIALS,
        settings=list(dict.fromkeys(published)),
        css=Markup((dashboards() / "report.css").read_text()),  # noqa: S704 - our own file
        number=lambda path, form=".3f": number(shown, path, form),
        setting=lambda path: setting(shown, path),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    )


def _content(facts: Facts, rows: Sequence[Facts], ledger: Ledger, data: Pairs | None) -> PageContent:
    """Charts, pictures and notes."""
    page = PageContent()
    evidence = dict(find_evidence(rows, ledger, page))
    add_row_charts(facts, rows, page)
    add_curve_charts(facts, rows, evidence, page)
    if facts["kind"] == "sweep":
        add_trial_charts(facts, page)
    if data is None:
        page.notes.append("No cache was given (--data), so there are no pictures of films.")
    else:
        draw_pictures(facts, evidence, data, page)
    return page


def derived_figures(facts: Facts) -> dict[str, Any]:
    """Counts and sums of the facts, for the sentences of the page (`derived.*`)."""
    rows = facts["rows"]
    verdicts = Counter(row.get("words") for row in rows)
    baseline = next((row.get("auc") for row in rows if row["name"] == facts["baseline"]), None)
    figures = {
        "compared": sum(verdicts[verdict] for verdict in SHORT_VERDICTS),
        "better": verdicts[statistics.BETTER],
        "worse": verdicts[statistics.WORSE],
        "unclear": verdicts[statistics.UNCLEAR],
        "incomplete": sum(not row["complete"] for row in rows),
        "guessing": baseline is not None and baseline["low"] <= CHANCE <= baseline["high"],
        "training": _duration(_training_seconds(facts)),
        "cpu": _duration((facts["run"].get("cpu_hours") or 0) * 3600),
        "gpu": _duration((facts["run"].get("gpu_hours") or 0) * 3600),
        "fragile": sum(_is_fragile(row, facts["detectable"]) for row in rows),
    }
    if facts["kind"] == "sweep":
        states = Counter(trial["state"] for trial in facts["trials"])
        figures |= {state: states[state] for state in ("complete", "pruned", "failed", "orphan")}
        if facts["corrected"] is not None:
            figures["optimism"] = facts["raw"] - facts["corrected"]["estimate"]
        figures["chosen"] = next((t for t in facts["trials"] if t["number"] == facts["best"]), None)
        figures["ranking"] = _ranking(facts["trials"])
    return figures


def _ranking(trials: Sequence[Facts]) -> list[int]:
    """Places of the trials in the facts: complete ones by validation AUC, then the others by state."""
    states = ("complete", "pruned", "failed")

    def rank(place: int) -> tuple[int, float, int]:
        trial = trials[place]
        state = states.index(trial["state"]) if trial["state"] in states else len(states)
        return state, -(trial["value"] or 0.0), trial["number"]

    return sorted(range(len(trials)), key=rank)


def _duration(seconds: float) -> dict[str, Any]:
    """A duration in a unit that suits it."""
    value, unit = duration_parts(seconds)
    return {"value": value, "unit": unit}


def _training_seconds(facts: Facts) -> float:
    """Of all trials, or of all rows and the searches that tuned them; shared units count once."""
    if facts["kind"] == "sweep":
        return math.fsum(trial["seconds"] or 0 for trial in facts["trials"])
    rows = {
        str(row["units"]): (row.get("seconds") or 0) + (row.get("before_seconds") or 0)
        for row in facts["rows"]
    }
    tuned = [row["tuned"] for row in facts["rows"] if row.get("tuned")]
    searches = {search["study"]: search["seconds"] for search in tuned}
    return math.fsum(rows.values()) + math.fsum(searches.values())


def _is_fragile(row: Facts, detectable: float | None) -> bool:
    """Significant for these trained networks, but smaller than the minimum detectable difference."""
    significant = row.get("words") in (statistics.BETTER, statistics.WORSE)
    return significant and detectable is not None and abs(row["difference"]["estimate"]) < detectable


def _differing_fields(rows: Sequence[Facts]) -> dict[str, list[Any]]:
    """Fields of the configuration that differ between rows, with the value of each row."""
    configs = [row["config"] for row in rows if row.get("config")]
    values = {name: [config.get(name) for config in configs] for name in (configs[0] if configs else ())}
    return {name: column for name, column in values.items() if any(v != column[0] for v in column)}


def _resources(resources: Facts) -> str:
    """The resources of each worker, as text."""
    amounts = [(resources.get("cpus", 1), "CPU"), (resources.get("gpus", 0), "GPU")]
    return " and ".join(f"{amount:g} {name}{'s' if amount > 1 else ''}" for amount, name in amounts if amount)
