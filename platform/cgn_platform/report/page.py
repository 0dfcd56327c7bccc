"""The report: one HTML file of a finished table or sweep, that opens from disk and asks nobody for anything.

    store/reports/<name>/facts.json    what a table or sweep wrote down of itself: every number on the page
    store/reports/<name>/report.html   the page; curves and pictures are read from the ledger and the cache

The page is `dashboards/report.html.j2` over the facts; `charts` draws. A number is written by `number` from
where it stands in the facts, and carries that place (`data-at`), so that page and facts can be compared.
"""

import base64
import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from cgn import files, statistics
from cgn.errors import ConfigError
from cgn_platform.report import charts
from cgn_platform.report.content import Page, find_evidence
from cgn_platform.report.facts import Facts, read_facts
from cgn_platform.report.figures import fact_charts, trial_charts, unit_charts
from cgn_platform.report.format import number, setting, value_at
from cgn_platform.report.pictures import draw_pictures
from cgn_platform.report.templates import dashboards, environment
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

if TYPE_CHECKING:
    from cgn.data.pairs import Pairs


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


def write_report(store: Store, name: str, ledger: Ledger, data: "Pairs | None" = None) -> Path:
    """The page of a table or sweep, written whole or not at all.

    Args:
        store: holds the facts.
        name: of the table or sweep.
        ledger: holds its units.
        data: the cache it ran on, for pictures; without it there are none, and the page says so.

    Raises:
        ConfigError: nothing of this name has finished, or the cache is another one.
    """
    page = store.report(name).page
    files.write(page, render(read_facts(store, name), ledger, data))
    return page


def render(facts: Facts, ledger: Ledger, data: "Pairs | None" = None) -> str:
    """The page as text. Raises ConfigError for a cache that is not the one of the facts."""
    if data is not None and data.fingerprint != facts["data"]["cache"]:
        raise ConfigError(
            f"the cache must be {facts['data']['cache']}, which {facts['name']} ran on, "
            f"but is {data.fingerprint}: give the right one or none"
        )
    page = Page()
    rows = [row for row in facts["rows"] if row["complete"]]
    evidence = dict(find_evidence(rows, ledger, page))
    fact_charts(facts, rows, page)
    unit_charts(facts, rows, evidence, page)
    if facts["kind"] == "sweep":
        trial_charts(facts, page)
    if data is None:
        page.notes.append("No cache was given (--data), so there are no pictures of films.")
    else:
        draw_pictures(facts, evidence, data, page)
    templates = environment(html=True)
    told = {**facts, "derived": derived(facts)}
    templates.filters["place"] = lambda at: value_at(told, at)
    return templates.get_template("report.html.j2").render(
        facts=told,
        page=page,
        sections=[(id_, title) for id_, title, needs in SECTIONS if needs is None or needs in page.charts],
        device=_device(facts["run"].get("resources") or {}),
        short=SHORT,
        differing=_differing(rows),
        settings=list(dict.fromkeys(name for row in facts["rows"] for name in row.get("published") or {})),
        css=Markup((dashboards() / "report.css").read_text()),  # noqa: S704 - ours
        number=lambda at, form=".3f": number(told, at, form),
        setting=lambda at: setting(told, at),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    )


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
