"""The report page: every number is the facts', every chart the ledger's, and a browser sees nothing wrong."""

import json
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cgn import metrics
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn.fit import fit
from cgn.results import last
from cgn_platform.cli import app
from cgn_platform.cluster.resources import Resources
from cgn_platform.report import charts, sweep_facts
from cgn_platform.report.facts import facts_path, read_facts
from cgn_platform.report.page import derived, render, write_report
from cgn_platform.run.folds import read_or_train
from cgn_platform.search.records import TrialRecord
from cgn_platform.search.study import importances, open_study
from cgn_platform.space import Float, Row, Space, Table
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Identity, Ledger

BASE = Config(backbone="tiny", generator_blocks=1, epochs=3, batch_size=4, learning_rate=3e-3)
ROWS = (
    Row(("SBF", "×"), {"bilateral": "sbf", "triplet": "none", "negative_embedding": False}, {"a": 0.862}),
    Row(("never run", "×"), {"bilateral": "bf_gan"}, {"a": 0.86}),
    Row(("AdaIN-GAN", "✓"), {}, {"a": 0.91}),
)
RUN = {"code": "c", "git_commit": "abc", "ledger": "units"}
NUMBER = re.compile(r'<data value="([^"]*)" data-at="([^"]*)" data-form="([^"]*)">([^<]*)</data>')


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def ledger(store: Path) -> Ledger:
    return Ledger(store.root / "units")


@pytest.fixture(scope="module")
def table(store: Path, ledger: Ledger, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Facts of a table with two complete rows, two seeds each, and one that was never run."""
    from cgn_platform.report.table_facts import table_facts
    from cgn_platform.run.site import TrainingSpec
    from cgn_platform.run.table import make_plan

    declared = Table(
        "Table III", ("Bilateral", "L_NE"), ROWS, BASE, description="What each part adds.\n\nMore."
    )
    work = TrainingSpec(pairs, splits, Resources(), str(store.root / "units"))
    for job in make_plan(declared, work, 2, ledger).missing:
        if job.config.edit(seed=0) != declared.config(ROWS[1]):
            train(job.config, job.number, pairs, splits, ledger)
    facts = table_facts(declared, pairs, splits, make_plan(declared, work, 2, ledger), ledger)
    run = {
        "command": "cgn table <three>",
        "code": work.code,
        "git_commit": "abc",
        "when": "2026",
        "seeds": [0, 1],
    }
    facts |= {
        "kind": "table",
        "name": "three",
        "run": {**run, "resources": {"cpus": 1}, "ledger": ledger.where},
    }
    return written(store, facts)


@pytest.fixture(scope="module")
def sweep(store: Path, ledger: Ledger, pairs: Pairs, splits: tuple[Split, ...]) -> dict[str, Any]:
    """Facts of a sweep with three complete trials, one pruned and one failed."""
    base = BASE.edit(learning_rate=1e-6)  # so that another one is chosen
    dimensions = {"alpha": Float(0, 1), "learning_rate": Float(1e-6, 1e-2, log=True)}
    space = Space(base, dimensions, trials=5, description="Flat?")
    records = []
    for number, (alpha, rate) in enumerate([(0.5, 1e-6), (0.1, 1e-3), (0.9, 5e-3)]):
        config = base.edit(alpha=alpha, learning_rate=rate)
        found = [train(config, fold, pairs, splits, ledger) for fold in range(3)]
        units = [unit.id for unit in found]
        folds = [{n: unit.facts["result"][n] for n in ("test_auc", "val_auc", "seconds")} for unit in found]
        value = float(np.mean([fold["val_auc"] for fold in folds]))
        curve = dict(enumerate(np.mean([[r.val_auc for r in u.reports] for u in found], axis=0).tolist()))
        told = {"folds": folds, "units": units, "seconds": 2.0, "test_auc": 0.5}
        params = {"alpha": alpha, "learning_rate": rate}
        records.append(TrialRecord(number, "complete", value, params, curve, config, told))
    records.append(TrialRecord(3, "pruned", None, {"alpha": 0.2, "learning_rate": 1e-5}, {0: 0.4, 1: 0.45}))
    records.append(TrialRecord(4, "failed", None, {}, {}, facts={"reason": "DivergedError: <nan>"}))
    facts = sweep_facts.facts_of_sweep(
        "flat", space, records, pairs, splits, ledger,
        importances={"alpha": 0.75, "learning_rate": 0.25}, run=RUN,
    )  # fmt: skip
    return written(store, facts)


def train(
    config: Config,
    fold: int,
    pairs: Pairs,
    splits: tuple[Split, ...],
    ledger: Ledger,
) -> Any:
    from cgn.data.folds import splits_fingerprint

    named = splits_fingerprint(pairs.pair_id, splits)
    identity = Identity.of(config, fold, splits=named, cache=pairs.fingerprint)
    last(
        read_or_train(
            ledger, identity, pairs, lambda memory: fit(config, pairs, splits[fold], checkpoints=memory)
        )
    )
    return ledger.open(identity.id)


def written(store: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """As a reader of the file finds them."""
    path = facts_path(store, facts["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts))
    read: dict[str, Any] = json.loads(path.read_text())
    return read


@pytest.fixture(params=["table", "sweep"])
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def page(facts: dict[str, Any], ledger: Ledger, pairs: Pairs) -> str:
    return render(facts, ledger, pairs)


def at(facts: Any, place: str) -> Any:
    for step in place.split("."):
        facts = facts[int(step)] if isinstance(facts, list) else facts[step]
    return facts


def spec(page: str, chart: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{chart}-spec">(.*?)</script>', page, re.S)
    assert found, chart
    return json.loads(found[1])


def trace(drawn: Any, name: str) -> Any:
    return next(trace for trace in drawn["data"] if trace.get("name") == name)


def test_every_number_is_the_one_of_the_facts(page: str, facts: dict[str, Any]) -> None:
    told = NUMBER.findall(page)
    for value, place, form, text in told:
        known = at(facts | {"derived": derived(facts)}, place)
        assert value == repr(known), place
        assert text == format(known, form).replace("-", "−"), place
    places = {place for _, place, _, _ in told}
    for i, row in enumerate(facts["rows"]):
        if row["complete"]:
            folds = [f"fold_auc.{s}.{k}" for s, seed in enumerate(row["fold_auc"]) for k in range(len(seed))]
            figures = [f"auc.{end}" for end in ("estimate", "low", "high")]
            against = ["difference.low", "p_adjusted"] if row["difference"] else []
            assert {f"rows.{i}.{each}" for each in (*folds, *figures, *against)} <= places
    rest = re.sub(r"<(script|style|pre|dl|title)\b.*?</\1>|<[^>]*>", "", NUMBER.sub("", page), flags=re.S)
    constants = {"0.5", "0.1"}  # guessing; the IoU from which a lesion counts as found
    assert set(re.findall(r"\d+\.\d+", unescape(rest))) <= constants | ious(page)


def ious(page: str) -> set[str]:
    """Those in the captions of pictures."""
    return set(re.findall(r"\d\.\d\d", " ".join(re.findall(r"IoU of the baseline: ([^:]*)", page))))


def test_what_the_facts_count_is_what_the_ledger_has(table: dict[str, Any], ledger: Ledger) -> None:
    for row in table["rows"]:
        for units, aucs in zip(row["units"], row.get("fold_auc", []), strict=False):
            assert [ledger.open(name).result.test_auc for name in units] == aucs
    counts = derived(table)
    assert (counts["compared"], counts["incomplete"]) == (1, 1)
    assert counts["better"] + counts["worse"] + counts["unclear"] == 1


def test_charts_draw_what_the_ledger_has(table: dict[str, Any], ledger: Ledger, pairs: Pairs) -> None:
    page = render(table, ledger, pairs)
    complete = [row for row in table["rows"] if row["complete"]]
    spread = spec(page, "spread")
    for seed in range(2):
        assert trace(spread, f"seed {seed}")["x"] == [
            auc for row in complete for auc in row["fold_auc"][seed]
        ]
    for i, row in enumerate(complete):
        units = [ledger.open(name) for seed in row["units"] for name in seed]
        thin = trace(spec(page, f"learning-{i}"), "units")["y"]
        assert [y for y in thin if y is not None] == [r.val_auc for u in units for r in u.reports]
        curve = trace(spec(page, f"roc-{i}"), "row")
        assert np.mean(curve["y"][1:-1]) == pytest.approx(row["auc"]["estimate"], abs=0.01)
    (mark,) = [t["x"] for t in spec(page, "forest")["data"] if t["x"]]
    assert mark == [complete[0]["difference"]["estimate"]]


def test_a_row_without_its_units_has_no_figures(table: dict[str, Any], ledger: Ledger) -> None:
    page = render(table, ledger)
    assert "incomplete: 6 of 6 units are missing: not trained yet" in page
    assert "1</data> row is incomplete" in page
    assert "No cache was given (--data), so there are no pictures of films." in page
    assert "<img" not in page


def test_without_the_baseline_nothing_is_compared(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    bare = ("name", "cells", "published", "config", "units", "seconds", "fold_auc", "val_auc")
    rows = [{name: row.get(name) for name in bare} for row in table["rows"]]
    rows = [{**row, "complete": i == 0, "why": "lost"} for i, row in enumerate(rows)]
    page = render({**table, "rows": rows, "detectable": None}, ledger, pairs)
    assert "The baseline, AdaIN-GAN / ✓, has no figures yet, so nothing is compared." in page
    assert "trained; there is no baseline to compare with" in page
    assert 'id="forest"' not in page
    assert 'id="roc-0"' in page


def test_a_unit_that_was_lost_since_is_told(table: dict[str, Any], ledger: Ledger, tmp_path: Path) -> None:
    shutil.copytree(ledger.where, tmp_path / "units")
    (tmp_path / "units" / table["rows"][0]["units"][0][0] / "curve.parquet").unlink()
    page = render(table, Ledger(tmp_path / "units", warn=lambda _: None))
    assert "SBF / ×: a unit is not in" in page
    assert 'id="roc-0"' in page
    assert 'id="roc-1"' not in page


def test_pictures_are_chosen_by_rule_and_name_nobody(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    page = render(table, ledger, pairs)
    sources = re.findall(r'<img src="(data:image/png;base64,[^"]+)"', page)
    assert len(sources) == 2  # places; features, since the baseline makes a counterfactual
    baseline = next(row for row in table["rows"] if row["name"] == table["baseline"])
    found = [iou for name in baseline["units"][0] for iou in ledger.open(name).predictions["iou"].to_pylist()]
    ranked = sorted(iou for iou in found if iou is not None)
    rule = [ranked[-1], ranked[len(ranked) // 2], ranked[0]]
    assert f"IoU of the baseline: {', '.join(f'{iou:.2f}' for iou in rule)}." in page
    assert not any(name in page for name in pairs.patient_id.tolist())


def test_the_page_asks_nobody_and_runs_no_text_of_others(
    page: str, facts: dict[str, Any], ledger: Ledger
) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    hostile = "</script><script>alert(1)</script>"
    rows = [{**row, "name": hostile, "cells": [hostile] * 2} for row in facts["rows"]]
    page = render({**facts, "description": hostile, "rows": rows, "baseline": hostile}, ledger)
    assert hostile not in page


def test_a_sweep_tells_its_winner_as_it_looks_and_as_it_may_be_expected(sweep: dict[str, Any]) -> None:
    values = [trial["value"] for trial in sweep["trials"][:3]]
    assert sweep["best"] == int(np.argmax(values))
    assert sweep["raw"] == pytest.approx(max(values))
    corrected = sweep["corrected"]
    assert 0 <= corrected["low"] <= corrected["estimate"] <= corrected["high"] <= 1
    names = [row["name"] for row in sweep["rows"]]
    assert names[0] == "default: trial 0"
    assert names[1:] == [f"chosen: trial {sweep['best']}"]
    assert sweep["rows"][0]["auc"]["estimate"] == pytest.approx(np.mean(sweep["rows"][0]["fold_auc"]))


def test_a_sweep_shows_pruning_and_what_mattered(sweep: dict[str, Any], ledger: Ledger) -> None:
    page = render(sweep, ledger)
    pruned = trace(spec(page, "pruning"), "pruned")
    assert (pruned["x"], pruned["y"]) == ([1, 2, None], [0.4, 0.45, None])
    lines = [t for t in spec(page, "parallel")["data"] if t["mode"] == "lines+markers"]
    assert len(lines) == 3
    assert sorted(line["y"][-1] for line in lines)[:: len(lines) - 1] == [0.0, 1.0]
    assert spec(page, "importances")["data"][0]["x"] == [0.75, 0.25]
    assert "DivergedError: &lt;nan&gt;" in page


def test_a_sweep_of_nothing_complete_is_a_page_too(
    ledger: Ledger, pairs: Pairs, splits: tuple[Split, ...]
) -> None:
    space = Space(BASE, {"alpha": Float(0, 1)}, trials=1)
    failed = [TrialRecord(0, "failed", None, {"alpha": 0.5}, {}, facts={"reason": "a bug"})]
    told = sweep_facts.facts_of_sweep("n", space, failed, pairs, splits, ledger, importances={}, run=RUN)
    assert told["best"] is None
    assert "No trial is complete, so nothing is chosen." in render(told, ledger)


def test_the_area_below_a_mean_curve_is_the_mean_auc() -> None:
    rng = np.random.default_rng(0)
    folds = np.arange(90) % 3
    labels = rng.integers(0, 2, 90)
    scores = np.round(rng.normal(size=(2, 90)) + labels, 1)  # with ties
    curve = charts.mean_roc(labels, scores, folds, np.arange(90) // 2, n=50)
    aucs = [metrics.auc(labels[folds == k], score[folds == k]) for k in range(3) for score in scores]
    assert curve.y.mean() == pytest.approx(np.mean(aucs), abs=0.005)
    assert (curve.low <= curve.high).all()
    assert (np.diff(curve.y) >= -1e-12).all()
    perfect = charts.mean_roc([0, 0, 1, 1], [[0, 0.1, 0.8, 0.9]], [0] * 4, range(4), n=20)
    assert (perfect.y == 1).all()


def test_importances_are_shares_and_want_more_than_one_trial(tmp_path: Path, space: Space) -> None:
    shares: dict[str, float] = {}
    with open_study("s", space, store=Store(tmp_path), identity={}) as study:
        for value in (0.5, 0.6, 0.9, 0.7, 0.55):
            asked: Any = study.ask()
            study.tell(asked.number, "complete", value)
            shares = importances("s", tmp_path)
            assert bool(shares) is (asked.number > 0)
    assert set(shares) == set(space.dimensions)
    assert sum(shares.values()) == pytest.approx(1)


def test_the_verb_writes_the_page_and_says_where(store: Path, facts: dict[str, Any]) -> None:
    told = CliRunner().invoke(app, ["report", facts["name"], "--store", str(store)])
    path = store.root / "reports" / facts["name"] / "report.html"
    assert told.output.strip() == str(path)
    assert path.read_text().startswith("<!doctype html>")
    assert not list(path.parent.glob(".*"))


def test_facts_of_an_older_version_are_refused_with_the_remedy(tmp_path: Path, sweep: dict[str, Any]) -> None:
    path = facts_path(tmp_path, sweep["name"])
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**sweep, "corrected": 0.763}))
    with pytest.raises(ConfigError, match="run the sweep's command again"):
        read_facts(tmp_path, sweep["name"])


def test_what_has_not_run_and_another_cache_are_refused(
    store: Path, table: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    with pytest.raises(ConfigError, match=r"no table or sweep 'five' has ended .* three"):
        write_report(store, "five", ledger.where)
    other = {**table, "data": {**table["data"], "cache": "another"}}
    with pytest.raises(ConfigError, match="the cache must be another, which three ran on"):
        render(other, ledger, pairs)


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


def complaints(tab: Any) -> list[str]:
    """What a tab's console says, and whom it asks."""
    found: list[str] = []
    tab.on("console", lambda told: found.append(told.text))
    tab.on("pageerror", lambda error: found.append(str(error)))
    tab.on("request", lambda asked: None if asked.url.startswith(OWN) else found.append(asked.url))
    return found


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_every_chart_alone_and_complains_of_nothing(
    scheme: str, browser: Any, store: Path, facts: dict[str, Any], ledger: Ledger, pairs: Pairs
) -> None:
    path = write_report(store, facts["name"], ledger.where, pairs)
    tab = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 800}, offline=True)
    wrong = complaints(tab)
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-drawn]", timeout=60_000)
    found = [plot.evaluate(DRAWN) for plot in tab.query_selector_all(".plot")]
    assert {chart["id"] for chart in found} >= {"forest", "spread", "roc-0", "learning-0", "cost"}
    for chart in found:
        assert chart["marks"] > 0, chart
        assert 0 < chart["width"] <= chart["room"] + 1, chart
    for value, place, form, text in tab.eval_on_selector_all("data", NUMBERS):
        known = at(facts | {"derived": derived(facts)}, place)
        assert (value, text) == (repr(known), format(known, form).replace("-", "−"))
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    lightness = {"light": lambda c: c < 128, "dark": lambda c: c > 128}
    assert all(map(lightness[scheme], map(int, re.findall(r"\d+", tab.evaluate(TEXT)))))
    assert tab.pdf(format="A4").startswith(b"%PDF")
    tab.close()
    assert wrong == []


def test_an_audit_of_pruning_is_told_with_its_interval(sweep: dict[str, Any], ledger: Ledger) -> None:
    told = render(sweep, ledger)
    assert "ran on where pruning" not in told
    figures = {"audited": 4, "wrong_prunes": 1, "wrong_prune_rate": 0.25}
    audit = {**figures, "wrong_prune_rate_low": 0.0063, "wrong_prune_rate_high": 0.8059}
    text = re.sub(r"<[^>]+>", "", render({**sweep, "audit": audit}, ledger))
    assert "4 trials ran on where pruning would have stopped" in text
    assert "1 would have won, a rate of 0.25 [0.01, 0.81]." in text
