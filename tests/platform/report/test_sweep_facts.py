"""The facts of a sweep: the chosen trial, before and after correction, and its rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn_platform.report import sweep_facts
from cgn_platform.report.page import render
from cgn_platform.run.site import Site
from cgn_platform.search.records import TrialRecord
from cgn_platform.search.study import importances, open_study
from cgn_platform.search.summary import IMPORTANCE_TRIALS
from cgn_platform.space import Float, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger


def test_the_chosen_trial_has_a_raw_and_a_corrected_auc(sweep: dict[str, Any]) -> None:
    values = [trial["value"] for trial in sweep["trials"][:3]]
    assert sweep["best"] == int(np.argmax(values))
    assert sweep["raw"] == pytest.approx(max(values))
    corrected = sweep["corrected"]
    assert 0 <= corrected["low"] <= corrected["estimate"] <= corrected["high"] <= 1


def test_the_result_of_a_sweep_names_the_test_auc_before_the_validation_auc(sweep: dict[str, Any]) -> None:
    result, auc = sweep_facts.result_of(sweep), sweep["rows"][-1]["auc"]
    assert result.startswith(f"Trial {sweep['best']} was chosen by its validation AUC. Test AUC: ")
    test, validation = f"Test AUC: {auc['estimate']:.3f} [", f"Validation AUC: {sweep['raw']:.3f}, "
    assert 0 < result.index(test) < result.index(validation)
    lost = {**sweep, "rows": [], "corrected": None}
    assert f"Test AUC: {sweep['trials'][sweep['best']]['test_auc']:.3f}. " in sweep_facts.result_of(lost)
    assert sweep_facts.result_of({**lost, "best": None}) == "No trial is complete, so no trial was chosen."


def test_default_and_chosen_trial_are_rows_of_a_table(sweep: dict[str, Any]) -> None:
    names = [row["name"] for row in sweep["rows"]]
    assert names == ["default: trial 0", f"chosen: trial {sweep['best']}"]
    assert sweep["rows"][0]["auc"]["estimate"] == pytest.approx(np.mean(sweep["rows"][0]["fold_auc"]))


def test_a_sweep_that_lost_a_unit_is_neither_corrected_nor_compared(
    base: Config,
    sweep: dict[str, Any],
    site: Site,
    pairs: Pairs,
    splits: tuple[Split, ...],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_facts, "importances", lambda _name, _store: {})
    records = [
        TrialRecord(t["number"], t["state"], t["value"], t["params"], {}, base, facts=t)
        for t in sweep["trials"][:3]
    ]
    space = Space(base, {"alpha": Float(0, 1)}, trials=3)
    elsewhere = Site(Store(tmp_path), Ledger(tmp_path / "units"), site.cluster)
    facts = sweep_facts.sweep_facts(space, pairs, splits, name="lost", records=records, site=elsewhere)
    assert (facts["best"], facts["raw"], facts["corrected"], facts["detectable"]) == (
        sweep["best"], None, None, None,
    )  # fmt: skip
    assert all("auc" not in row for row in facts["rows"])


@pytest.mark.parametrize("lost", [0, 1])
def test_the_row_that_lost_a_unit_is_incomplete_and_the_other_keeps_its_figures(
    lost: int,
    base: Config,
    sweep: dict[str, Any],
    site: Site,
    pairs: Pairs,
    splits: tuple[Split, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Row 0 is the default, row 1 the chosen trial; neither can be compared then."""
    monkeypatch.setattr(sweep_facts, "importances", lambda _name, _store: {})
    shutil.copytree(site.store.units, tmp_path / "units")
    path = tmp_path / "units" / sweep["rows"][lost]["units"][0][1] / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    records = [
        TrialRecord(t["number"], t["state"], t["value"], t["params"], {}, base, facts=t)
        for t in sweep["trials"][:3]
    ]
    space = Space(base, {"alpha": Float(0, 1)}, trials=3)
    ledger = Ledger(tmp_path / "units", warn=lambda _line: None)
    elsewhere = Site(Store(tmp_path), ledger, site.cluster)
    facts = sweep_facts.sweep_facts(space, pairs, splits, name="lost", records=records, site=elsewhere)
    incomplete, kept = facts["rows"][lost], facts["rows"][1 - lost]
    assert (incomplete["complete"], incomplete["why"]) == (False, "a unit is missing or damaged")
    assert not {"auc", "fold_auc", "val_auc", "seconds"} & set(incomplete)
    for name in ("auc", "pooled_auc", "localization_error", "fold_auc", "seconds"):
        assert kept[name] == sweep["rows"][1 - lost][name]
    assert kept["difference"] is None
    assert facts["corrected"] == sweep["corrected"]  # its scores are in the curves, which are whole
    page = render(stored_facts(facts), ledger)
    assert "incomplete: a unit is missing or damaged" in page
    assert ("no default to compare with" in page) is (lost == 0)


def stored_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """As they are read from their file."""
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def test_a_sweep_without_a_complete_trial_has_no_rows(
    base: Config,
    site: Site,
    pairs: Pairs,
    splits: tuple[Split, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweep_facts, "importances", lambda _name, _store: {})
    failed = [TrialRecord(0, "failed", None, {"alpha": 0.5}, {}, facts={"reason": "a bug"})]
    space = Space(base, {"alpha": Float(0, 1)}, trials=1)
    facts = sweep_facts.sweep_facts(space, pairs, splits, name="n", records=failed, site=site)
    assert (facts["best"], facts["rows"], facts["corrected"]) == (None, [], None)
    assert facts["trials"][0]["reason"] == "a bug"


def test_importances_are_shares_and_are_withheld_below_a_number_of_trials(
    tmp_path: Any, space: Space
) -> None:
    store, shares = Store(tmp_path), {}
    with open_study("s", space.edit(trials=IMPORTANCE_TRIALS), store=store, identity={}) as study:
        for number in range(IMPORTANCE_TRIALS):
            trial: Any = study.ask()
            study.tell(trial.number, "complete", 0.5 + 0.01 * (number * 7 % 10))
            shares = importances("s", store)
            assert bool(shares) is (number == IMPORTANCE_TRIALS - 1)
    assert set(shares) == set(space.dimensions)
    assert sum(shares.values()) == pytest.approx(1)
