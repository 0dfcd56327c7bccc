"""One join of folds: complete, or no figure at all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgn import statistics
from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import LedgerError
from cgn.results import EpochReport, FoldResult, Predictions
from cgn_platform.console.live import make_console
from cgn_platform.console.tables import leader_board
from cgn_platform.search.records import TrialRecord
from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Identity, Ledger
from cgn_platform.tracking.events import RunInfo
from cgn_platform.tracking.writer import MLflowWriter


def write_unit(ledger: Ledger, pairs: Pairs, split: Split, seed: int = 0) -> str:
    """A finished fold with random scores; no network is trained."""
    rng = np.random.default_rng([seed, split.fold])
    index, count = split.test, len(split.test)
    score = np.clip(0.5 + 0.2 * (pairs.label[index] - 0.5) + 0.2 * rng.normal(size=count), 0, 1)
    iou = np.where(pairs.label[index] == 1, rng.random(count), np.nan)
    predictions = Predictions(index, pairs.label[index], score, np.zeros((count, 4)), iou, iou > 0.1)
    report = EpochReport(split.fold, 0, 0.5, {"l_cls": 0.7}, 0.1, np.full(len(split.val), 0.5))
    result = FoldResult(split.fold, 0, 0.5, 0.5, 0.5, 0.5, predictions, 0.1, {})
    identity = Identity.of(Config(seed=seed), split.fold, splits="s" * 16, cache=pairs.fingerprint)
    ledger.write(identity, [report], result, pairs)
    return identity.id


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "units", warn=lambda _line: None)


@pytest.fixture
def ids(ledger: Ledger, pairs: Pairs, splits: Sequence[Split]) -> list[list[str]]:
    return [[write_unit(ledger, pairs, split, seed) for split in splits] for seed in range(2)]


def damage(ledger: Ledger, unit_id: str) -> None:
    path = Path(ledger.where) / unit_id / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_folds_are_joined_by_pair(ledger: Ledger, ids: Any, pairs: Pairs, splits: Sequence[Split]) -> None:
    joined = out_of_fold.read(ledger, ids)
    assert joined is not None
    assert joined.index.tolist() == list(range(len(pairs)))
    assert joined.label.tolist() == pairs.label.tolist()
    assert joined.patient.tolist() == pairs.patient_id.tolist()
    assert joined.score.shape == joined.localized.shape == (2, len(pairs))
    for seed, names in enumerate(ids):
        for split, name in zip(splits, names, strict=True):
            rows = ledger.open(name).predictions.to_pylist()
            assert (joined.fold[split.test] == split.fold).all()
            assert joined.score[seed, [row["index"] for row in rows]].tolist() == [
                row["p_malignant"] for row in rows
            ]
    assert np.array_equal(np.isnan(joined.localized[0]), pairs.label == 0)
    expected = statistics.bootstrap_auc(pairs.label, joined.score, pairs.patient_id, joined.fold)
    assert joined.auc() == expected


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_damaged_or_missing_fold_leaves_no_join(ledger: Ledger, ids: Any, harm: str) -> None:
    if harm == "damaged":
        damage(ledger, ids[1][2])
    else:
        ids[1][2] = "0" * 24
    assert out_of_fold.read(ledger, ids) is None
    assert out_of_fold.read(ledger, ids[:1]) is not None
    assert out_of_fold.read(ledger, []) is None
    assert out_of_fold.read(ledger, [[]]) is None


def test_units_of_different_pairs_are_not_joined(ledger: Ledger, ids: Any) -> None:
    units = [[ledger.open(name) for name in seed] for seed in ids]
    with pytest.raises(LedgerError, match="same pairs once for each seed"):
        out_of_fold.join([units[0], units[1][:2]])
    with pytest.raises(LedgerError, match="same pairs once for each seed"):
        out_of_fold.join([[*units[0], units[0][0]]])


@pytest.mark.parametrize("broken", [False, True])
def test_mlflow_gets_no_interval_of_an_incomplete_trial(
    ledger: Ledger, ids: Any, tmp_path: Path, broken: bool
) -> None:
    """An interval of the remaining folds beside the mean of all folds would be wrong."""
    if broken:
        damage(ledger, ids[0][1])
    facts = {"units": ids[0], "test_auc": 0.5, "folds": [], "seconds": 1.0}
    record = TrialRecord(0, "complete", 0.5, {}, {0: 0.5}, Config(), facts)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = MLflowWriter(
        uri, RunInfo("e", "s", "1"), artifacts=tmp_path, on_refusal=pytest.fail, ledger=ledger
    )
    writer.open(running=True)
    writer.reconcile([record], whole=True)
    writer.finish([record], "FINISHED", 1)
    runs = writer._client.search_runs([writer._experiment])
    trial = next(run for run in runs if "cgn.trial" in run.data.tags)
    parent = next(run for run in runs if "cgn.study_id" in run.data.tags)
    shown = {"test_auc_low", "test_auc_high"} & set(trial.data.metrics)
    assert shown == (set() if broken else {"test_auc_low", "test_auc_high"})
    assert ("| 0.500 [" in parent.data.tags["mlflow.note.content"]) is not broken


def test_fewer_than_three_folds_are_not_compared(ledger: Ledger, ids: Any) -> None:
    two = out_of_fold.join([[ledger.open(name) for name in ids[0][:2]]])
    assert out_of_fold.compare({"a": two, "b": two}, "a") is None
    three = out_of_fold.join([[ledger.open(name) for name in ids[0]]])
    compared = out_of_fold.compare({"a": three, "b": three}, "a")
    assert compared is not None
    assert compared.rows[1].difference is not None
    assert compared.rows[1].difference.estimate == 0
    assert out_of_fold.compare({"b": three}, "a") is None


def test_rows_keep_their_figures_if_the_baseline_is_incomplete(ledger: Ledger, ids: Any) -> None:
    rows = {name: out_of_fold.join([[ledger.open(unit) for unit in ids[0]]]) for name in "ab"}
    whole, detectable = out_of_fold.measure(rows, "a")
    assert detectable is not None
    assert whole["b"]["words"]
    kept, detectable = out_of_fold.measure({"b": rows["b"]}, "a")
    assert detectable is None
    assert list(kept) == ["b"]
    figures = ("auc", "pooled_auc", "localization_error")
    assert [kept["b"][name] for name in figures] == [whole["b"][name] for name in figures]
    assert kept["b"]["difference"] is kept["b"]["words"] is kept["b"]["p_adjusted"] is None
    assert out_of_fold.measure({}, "a") == ({}, None)


def test_the_leader_board_shows_no_spread_of_the_remaining_folds() -> None:
    def shown(*aucs: float | None) -> str:
        facts = {"folds": [{"test_auc": auc} for auc in aucs], "test_auc": 0.5}
        record = TrialRecord(0, "complete", 0.5, {}, {0: 0.5}, Config(), facts)
        console = make_console()
        with console.capture() as capture:
            console.print(leader_board([record]))
        (line,) = (line for line in capture.get().splitlines() if "/50" in line)
        return line

    assert "0.500 ± 0.100" in shown(0.4, 0.5, 0.6)
    assert "±" not in shown(0.4, 0.5, None)
