"""The page: every number comes from the facts, every chart from the ledger, and it loads in a browser."""

import re
import shutil
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from typer.testing import CliRunner

from cgn.data.pairs import Pairs
from cgn.errors import ConfigError
from cgn_platform.cli.commands import app
from cgn_platform.report.page import derived_figures, render, write_report
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

NUMBER = re.compile(r'<data value="([^"]*)" data-at="([^"]*)" data-form="([^"]*)">([^<]*)</data>')


def value_of(facts: dict[str, Any], path: str) -> Any:
    """Written apart from the page's own function, which it checks."""
    value: Any = facts | {"derived": derived_figures(facts)}
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def test_every_number_is_the_one_of_the_facts(page: str, facts: dict[str, Any]) -> None:
    numbers = NUMBER.findall(page)
    for value, path, form, text in numbers:
        expected = value_of(facts, path)
        assert value == repr(expected), path
        assert text == format(expected, form).replace("-", "−"), path
    paths = {path for _, path, _, _ in numbers}
    for i, row in enumerate(facts["rows"]):
        if row["complete"]:
            folds = [f"fold_auc.{s}.{k}" for s, seed in enumerate(row["fold_auc"]) for k in range(len(seed))]
            bounds = [f"auc.{bound}" for bound in ("estimate", "low", "high")]
            comparison = ["difference.low", "p_adjusted"] if row["difference"] else []
            assert {f"rows.{i}.{path}" for path in (*folds, *bounds, *comparison)} <= paths


def test_no_other_number_is_on_the_page(page: str) -> None:
    text = re.sub(r"<(script|style|pre|dl|title)\b.*?</\1>|<[^>]*>", "", NUMBER.sub("", page), flags=re.S)
    captions = " ".join(re.findall(r"IoU of the baseline: ([^:]*)", page))
    constants = {"0.5", "0.1"}  # chance; the IoU from which a lesion counts as localised
    assert set(re.findall(r"\d+\.\d+", unescape(text))) <= constants | set(re.findall(r"\d\.\d\d", captions))


def test_counts_are_those_of_the_rows(table: dict[str, Any]) -> None:
    counts = derived_figures(table)
    assert (counts["compared"], counts["incomplete"]) == (1, 1)
    assert counts["better"] + counts["worse"] + counts["unclear"] == 1


def test_a_row_without_its_units_has_no_figures(table: dict[str, Any], ledger: Ledger) -> None:
    page = render(table, ledger)
    assert "incomplete: 6 of 6 units are missing: not trained yet" in page
    assert "1</data> row is incomplete" in page
    assert "No cache was given (--data), so there are no pictures of films." in page
    assert "<img" not in page


def test_without_the_baseline_nothing_is_compared(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    names = ("name", "cells", "published", "config", "units", "seconds", "fold_auc", "val_auc")
    rows = [{name: row.get(name) for name in names} for row in table["rows"]]
    rows = [{**row, "complete": i == 0, "why": "lost"} for i, row in enumerate(rows)]
    page = render({**table, "rows": rows, "detectable": None}, ledger, pairs)
    assert "The baseline, AdaIN-GAN / ✓, has no results yet, so no row can be compared with it." in page
    assert "trained, but there is no baseline to compare with" in page
    assert 'id="forest"' not in page
    assert 'id="roc-0"' in page


def test_a_row_whose_unit_was_lost_has_no_curves(
    table: dict[str, Any], ledger: Ledger, store: Store, tmp_path: Any
) -> None:
    shutil.copytree(store.units, tmp_path / "units")
    (tmp_path / "units" / table["rows"][0]["units"][0][0] / "curve.parquet").unlink()
    page = render(table, Ledger(tmp_path / "units", warn=lambda _: None))
    assert "SBF / ×: a unit is missing from" in page
    assert 'id="roc-0"' in page
    assert 'id="roc-1"' not in page


def test_the_page_loads_nothing_and_escapes_all_text(
    page: str, facts: dict[str, Any], ledger: Ledger
) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    hostile = "</script><script>alert(1)</script>"
    rows = [{**row, "name": hostile, "cells": [hostile] * 2} for row in facts["rows"]]
    page = render({**facts, "description": hostile, "rows": rows, "baseline": hostile}, ledger)
    assert hostile not in page


def test_no_name_of_a_patient_is_on_the_page(page: str, pairs: Pairs) -> None:
    assert not any(name in page for name in pairs.patient_id.tolist())


def test_a_sweep_without_a_complete_trial_has_a_page(sweep: dict[str, Any], ledger: Ledger) -> None:
    trials = [trial for trial in sweep["trials"] if trial["state"] == "failed"]
    empty = {"trials": trials, "best": None, "raw": None, "corrected": None, "rows": [], "importances": {}}
    page = render({**sweep, **empty, "detectable": None}, ledger)
    assert "No trial is complete, so no trial was chosen." in page
    assert "DivergedError: &lt;nan&gt;" in page


def test_a_sweep_names_its_test_auc_first_and_the_validation_auc_as_optimistic(
    sweep: dict[str, Any], ledger: Ledger
) -> None:
    chance = {"estimate": 0.52, "low": 0.41, "high": 0.64}
    rows = [*sweep["rows"][:-1], {**sweep["rows"][-1], "auc": chance}]
    page = render({**sweep, "rows": rows}, ledger)
    verdict = page.partition('<div class="verdict">')[2].partition("</div>")[0]
    test, validation = verdict.index("Test AUC of trial"), verdict.index("Validation AUC of trial")
    assert test < validation
    assert verdict.index('data-at="rows.1.auc.estimate"') < verdict.index('data-at="corrected.estimate"')
    bold = re.search(r"<b>(.*?)</b>", verdict, re.S)
    assert bold is not None
    assert re.sub(r"<[^>]+>", "", bold[1]) == "0.520 [0.410, 0.640], not distinguishable from chance"
    assert "<b>" not in verdict[validation:].partition("</p>")[0]
    assert "optimistic" in verdict[validation:].partition("</p>")[0]


def test_a_sweep_whose_units_were_lost_still_names_both_aucs(sweep: dict[str, Any], ledger: Ledger) -> None:
    rows = [{name: value for name, value in row.items() if name != "auc"} for row in sweep["rows"]]
    unknown = {"rows": rows, "raw": None, "corrected": None, "detectable": None}
    page = render({**sweep, **unknown}, ledger)
    assert re.search(r"Test AUC of trial <data[^>]*>\d</data>: <b><data[^>]*derived.chosen.test_auc", page)
    assert re.search(r"Validation AUC of trial <data[^>]*>\d</data>: <data[^>]*derived.chosen.value", page)


def test_the_trials_of_a_sweep_are_ranked_and_not_folded_away(sweep: dict[str, Any], ledger: Ledger) -> None:
    page = render(sweep, ledger)
    table = page.partition('aria-label="All trials"')[2].partition("</table>")[0]
    assert page.partition('aria-label="All trials"')[0].count("<details") == 0
    numbers = [int(number) for number in re.findall(r'data-at="trials\.\d+\.number"[^>]*>(\d+)', table)]
    complete = sorted((t for t in sweep["trials"] if t["value"]), key=lambda t: -t["value"])
    assert numbers == [*(trial["number"] for trial in complete), 3, 4]
    assert table.index("Test AUC") < table.index("Validation AUC")


def test_an_audit_of_pruning_is_shown_with_its_interval(sweep: dict[str, Any], ledger: Ledger) -> None:
    assert "To check the pruning" not in render(sweep, ledger)
    audit = {
        "audited": 4,
        "wrong_prunes": 1,
        "wrong_prune_rate": 0.25,
        "wrong_prune_rate_low": 0.0063,
        "wrong_prune_rate_high": 0.8059,
    }
    text = re.sub(r"<[^>]+>", "", render({**sweep, "audit": audit}, ledger))
    assert "4 trials that should have been pruned were trained to the end" in text
    assert "1 would have been the best, a rate of 0.25 [0.01, 0.81]." in text


def test_another_cache_is_refused(table: dict[str, Any], ledger: Ledger, pairs: Pairs) -> None:
    other = {**table, "data": {**table["data"], "cache": "another"}}
    with pytest.raises(ConfigError, match="the cache must be another, which three ran on"):
        render(other, ledger, pairs)


def test_the_command_prints_where_the_page_is(store: Store, facts: dict[str, Any]) -> None:
    result = CliRunner().invoke(app, ["report", facts["name"], "--store", str(store)])
    path = store.report(facts["name"]).page
    assert result.output.strip() == str(path)
    assert path.read_text().startswith("<!doctype html>")
    assert not list(path.parent.glob(".*"))


# ------------------------------------------------------------------------------------------- browser

QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=QUIET.split())
        yield started
        started.close()


DRAWN = """plot => {
    const svg = plot.querySelector("svg.main-svg");
    const paths = [...plot.querySelectorAll(".cartesianlayer .trace path")];
    const marks = paths.map(path => path.getBoundingClientRect());
    const width = svg ? svg.getBoundingClientRect().width : 0;
    return {id: plot.id, width,
            marks: marks.filter(at => at.width + at.height > 0).length,
            room: plot.parentElement.getBoundingClientRect().width};
}"""
TEXT = "() => getComputedStyle(document.querySelector('.plot .xtick text')).fill"
NUMBERS = "all => all.map(n => [n.getAttribute('value'), n.dataset.at, n.dataset.form, n.textContent])"
OWN = ("file:", "data:", "blob:")


def problems(tab: Any) -> list[str]:
    """Filled while the tab is open: messages of its console, errors, and requests to other addresses."""
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(OWN) else messages.append(request.url))
    return messages


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_chart_offline_without_a_complaint(
    scheme: str, browser: Any, store: Store, facts: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    path = write_report(store, facts["name"], ledger, pairs)
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 800}, offline=True)
    wrong = problems(tab)
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-drawn]", timeout=60_000)
    charts = [plot.evaluate(DRAWN) for plot in tab.query_selector_all(".plot")]
    assert {chart["id"] for chart in charts} >= {"forest", "spread", "roc-0", "learning-0", "cost"}
    for chart in charts:
        assert chart["marks"] > 0, chart
        assert 0 < chart["width"] <= chart["room"] + 1, chart
    for value, place, form, text in tab.eval_on_selector_all("data", NUMBERS):
        expected = value_of(facts, place)
        assert (value, text) == (repr(expected), format(expected, form).replace("-", "−"))
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    shades = [int(part) for part in re.findall(r"\d+", tab.evaluate(TEXT))]
    assert all(shade < 128 if scheme == "light" else shade > 128 for shade in shades)
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.close()
    assert wrong == []


IN_MLFLOW = """page => {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.width = 560;
    frame.height = 500;
    frame.srcdoc = page;
    document.body.append(frame);
}"""
CUT = """() => [...document.querySelectorAll(".plot .main-svg text, figcaption, caption, .verdict p")]
    .filter(text => text.getBoundingClientRect().right > innerWidth + 1)
    .map(text => text.textContent)"""


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("place", ["phone", "preview of MLflow"])
def test_charts_and_captions_fit_a_narrow_page(
    place: str, browser: Any, store: Store, facts: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    path = write_report(store, facts["name"], ledger, pairs)
    tab = browser.new_page(viewport={"width": 390, "height": 844}, offline=True)
    wrong = problems(tab)
    page = tab.main_frame
    if place == "phone":
        tab.goto(path.as_uri())
    else:
        tab.set_viewport_size({"width": 900, "height": 700})
        tab.evaluate(IN_MLFLOW, path.read_text())
        tab.wait_for_selector("iframe")
        page = tab.query_selector("iframe").content_frame()
    page.wait_for_selector("body[data-drawn]", timeout=60_000)
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    charts = [plot.evaluate(DRAWN) for plot in page.query_selector_all(".plot")]
    assert all(chart["marks"] and chart["width"] <= chart["room"] + 1 for chart in charts)
    names = {row["name"] for row in facts["rows"] if row["complete"]}
    assert names <= set(
        page.eval_on_selector_all("#spread .main-svg text", "all => all.map(t => t.textContent)")
    )
    tab.close()
    assert wrong == []
